#include "core/feature_history.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <utility>

#include "core/weighted_sum.hpp"
#include "expect_error.hpp"
#include "tensor_near.hpp"

namespace deepcache::feature_history_test {
namespace {

torch::Tensor random(torch::IntArrayRef sizes, int seed, torch::Dtype dtype = torch::kFloat) {
  torch::manual_seed(seed);
  return torch::randn(sizes).to(dtype);
}

using Weights = std::vector<double>;
using Positions = std::vector<std::int64_t>;

TEST(PolynomialWeights, AreLagranges) {
  EXPECT_EQ(polynomial_weights(Positions{4}, 9), (Weights{1}));
  EXPECT_EQ(polynomial_weights(Positions{4, 2}, 5), (Weights{1.5, -0.5}));
  EXPECT_EQ(polynomial_weights(Positions{4, 2, 1}, 5), (Weights{2, -2, 1}));
}

TEST(FeatureHistory, ForecastsALinearSignalExactly) {
  const auto start = random({2, 3, 5, 7}, 0), slope = random({2, 3, 5, 7}, 1);
  const auto signal = [&](std::int64_t position) { return start + static_cast<double>(position) * slope; };
  FeatureHistory history(1);
  history.add(0, signal(0));
  EXPECT_TRUE(history.forecast(1).equal(signal(0)));  // nothing is known but that
  for (const std::int64_t position : {3, 4, 9}) {
    const double error = history.add(position, signal(position));
    if (position > 3) {
      EXPECT_LT(error, 1e-6);
    }
    for (const std::int64_t ahead : {1, 2, 6})
      expect_tensor_near(history.forecast(position + ahead), signal(position + ahead), 2e-5);
  }
}

TEST(FeatureHistory, ForecastsAParabolaExactlyInOrderTwo) {
  const auto a = random({40}, 0), b = random({40}, 1), c = random({40}, 2);
  const auto signal = [&](double position) { return a + position * b + position * position * c; };
  FeatureHistory history(2);
  for (const std::int64_t position : {0, 2, 5}) history.add(position, signal(static_cast<double>(position)));
  history.add(6, signal(6));  // tells that following it wholly is right
  expect_tensor_near(history.forecast(8), signal(8), 1e-3);
}

TEST(FeatureHistory, FollowsAForecastAsFarAsTheOneBeforeWasRight) {
  const auto start = random({40}, 0), slope = random({40}, 1);
  const auto after = [&](double change) {
    FeatureHistory history(1);
    history.add(0, start);
    history.add(2, start + slope);
    history.add(4, start + slope * (1 + change));
    return history;
  };
  // Forecast was a change of one slope; then each change goes on as far as it was right.
  expect_tensor_near(after(0.5).forecast(6), start + slope * (1.5 + 0.5 * 0.5), 1e-6);
  expect_tensor_near(after(0.5).forecast(5), start + slope * (1.5 + 0.25 * 0.625), 1e-6);
  expect_tensor_near(after(-1).forecast(6), start, 1e-6);  // it turned: the latest as it is
  expect_tensor_near(after(1.5).forecast(6), start + slope * (2.5 + 1.5 * 1.5), 1e-5);
  expect_tensor_near(after(3).forecast(6), start + slope * (4 + 2 * 3), 1e-5);  // never farther than twice the line
  expect_tensor_near(after(3).forecast(5), start + slope * (4 + 1.75 * 1.5), 1e-5);
}

TEST(FeatureHistory, TheErrorIsThatOfWhatWouldHaveBeenForecast) {
  const auto start = random({40}, 0), slope = random({40}, 1);
  const auto norm = [](const torch::Tensor& tensor) { return tensor.norm().item<double>(); };
  FeatureHistory history(1);
  EXPECT_TRUE(std::isnan(history.add(0, start)));
  EXPECT_NEAR(history.add(2, start + slope), norm(slope) / norm(start + slope), 1e-6);
  const auto truth = start + slope * 1.5;
  EXPECT_NEAR(history.add(4, truth), norm(slope * 0.5) / norm(truth), 1e-6);
  const auto next = start + slope * 2;  // a quarter of a slope was forecast, in place of half of one
  EXPECT_NEAR(history.add(6, next), norm(slope * 0.25) / norm(next), 1e-6);
}

TEST(FeatureHistory, ALaterFullStepCountsTwiceTheOneBefore) {
  const auto start = random({40}, 0), slope = random({40}, 1);
  FeatureHistory history(1);
  double value = 0;
  const auto add = [&](int i, double change) { history.add(2 * i, start + (value += change) * slope); };
  add(0, 0);
  add(1, 1);
  add(2, 0.5);   // of 1 that was forecast
  add(3, 0.25);  // of 0.5
  expect_tensor_near(history.forecast(8), start + slope * (value + 0.25 * 0.5), 1e-6);
  add(4, 0.1);  // of 0.25
  const double best = (0.5 / 4 + 0.125 / 2 + 0.025) / (1. / 4 + 0.25 / 2 + 0.0625);
  expect_tensor_near(history.forecast(10), start + slope * (value + 0.1 * best), 1e-6);
}

TEST(FeatureHistory, InARunOfManyFullStepsAForecastIsFollowedFarther) {
  const auto start = random({40}, 0), slope = random({40}, 1);
  const auto history_of = [&](std::int64_t num_calls, std::initializer_list<double> values) {
    FeatureHistory history(1, 0, false, num_calls);
    std::int64_t position = 0;
    for (const auto value : values) history.add(std::exchange(position, position + 2), start + value * slope);
    return history;
  };
  const auto expected = [&](double value, double move, double share) { return start + slope * (value + move * share); };
  // One is judged, with the best share 0.5.
  expect_tensor_near(history_of(0, {0, 1, 1.5}).forecast(6), expected(1.5, 0.5, 0.5), 1e-6);
  expect_tensor_near(history_of(9, {0, 1, 1.5}).forecast(6), expected(1.5, 0.5, 0.5), 1e-6);  // and two are to come
  expect_tensor_near(history_of(25, {0, 1, 1.5}).forecast(6), expected(1.5, 0.5, 1 - 0.5 * 3 / 11), 1e-6);  // ten
  expect_tensor_near(history_of(3, {0, 1, 1.5}).forecast(6), expected(1.5, 0.5, 0.5), 1e-6);  // past the run's end
  // Of six judged ones, whose best shares are 0, whether the rest is known or not.
  for (const std::int64_t num_calls : {0, 15})
    expect_tensor_near(history_of(num_calls, {0, 1, 1, 1, 1, 1, 1, 2}).forecast(16), expected(2, 1, 0.5), 1e-6);
  // What had turned isn't followed the other way.
  expect_tensor_near(history_of(25, {0, 1, -8}).forecast(6), expected(-8, -9, 0), 1e-5);
}

TEST(FeatureHistory, OfHalvesFollowsWhatTheyShareAndWhatTheyDifferInByThemselves) {
  const auto half = [](const torch::Tensor& batch, int k) { return batch.chunk(2)[k]; };
  const auto parts = [&](const torch::Tensor& batch) {
    return torch::cat({half(batch, 0) + half(batch, 1), half(batch, 1) - half(batch, 0)}) / std::sqrt(2.0);
  };
  for (const bool in_one_piece : {true, false}) {
    const auto features = random({4, 6, 3, 5, 8}, 0).cumsum(0).slice(4, 0, in_one_piece ? 8 : 7);
    FeatureHistory of_halves(1, 0, true), of_parts(1);
    for (std::int64_t i = 0; i < 4; ++i) {
      const auto error = of_halves.add(3 * i, features[i]), of_parts_error = of_parts.add(3 * i, parts(features[i]));
      if (i == 1) {
        EXPECT_TRUE(of_halves.forecast(4).equal(features[1]));  // nothing to judge by yet
      }
      if (i < 2) continue;
      for (const std::int64_t ahead : {1, 2, 5})
        expect_tensor_near(parts(of_halves.forecast(3 * i + ahead)), of_parts.forecast(3 * i + ahead), 1e-5);
      if (i > 2) {
        EXPECT_NEAR(error, of_parts_error, 1e-6);
      }
    }
  }
}

TEST(FeatureHistory, GivenSharesAreFollowedInsteadOfJudgedOnes) {
  const auto start = random({4, 40}, 0), slope = random({4, 40}, 1);
  const auto common = (slope + slope.roll(2, 0)) / 2, difference = slope - common;  // of the two halves
  const ForecastShares shares{.common = 0.75, .difference = -0.5};
  for (const bool of_halves : {false, true}) {
    FeatureHistory history(1, 0, of_halves);
    history.add(0, start, shares);
    EXPECT_TRUE(history.forecast(1, shares).equal(start));  // nothing to forecast from
    const auto latest = start + slope;
    history.add(2, latest, shares);
    const auto expected = [&](double of_common, double of_difference) {
      return latest + of_common * common + (of_halves ? of_difference : of_common) * difference;
    };
    expect_tensor_near(history.forecast(4, shares), expected(0.75, -0.5), 1e-6);
    expect_tensor_near(history.forecast(3, shares), expected((1 - 0.25 * 0.75) / 2, (1 - 1.5 * 0.75) / 2), 1e-6);
    const auto truth = latest + 0.3 * slope;
    const auto off = truth - expected(0.75, -0.5);
    EXPECT_NEAR(history.add(4, truth, shares), (off.norm() / truth.norm()).item<double>(), 1e-6);
  }
}

TEST(FeatureHistory, OfHalvesNeedsTwoOfOneSize) {
  FeatureHistory history(1, 0, true);
  expect_error<std::invalid_argument>([&] { history.add(0, random({3, 8}, 0)); }, {"two halves", "3 items"});
}

TEST(FeatureHistory, EachItemOfABatchIsForecastAsAlone) {
  const auto features = random({3, 2, 4, 6, 6}, 0);
  FeatureHistory both(1), alone(1);
  for (std::int64_t i = 0; i < 3; ++i) {
    both.add(3 * i, features[i]);
    alone.add(3 * i, features[i].slice(0, 1, 2));
  }
  EXPECT_TRUE(both.forecast(8).slice(0, 1, 2).equal(alone.forecast(8)));
}

TEST(FeatureHistory, EachPictureOfAGuidedBatchIsForecastAsAlone) {
  const auto features = random({4, 6, 4, 6, 6}, 0);
  const auto second = torch::tensor({1, 4});  // of three, in both halves
  FeatureHistory all(1, 0, true), alone(1, 0, true);
  for (std::int64_t i = 0; i < 4; ++i) {
    all.add(3 * i, features[i]);
    alone.add(3 * i, features[i].index_select(0, second));
  }
  EXPECT_TRUE(all.forecast(11).index_select(0, second).equal(alone.forecast(11)));
}

TEST(FeatureHistory, HoldsWhatItSaysOfAnOrder) {
  for (const std::int64_t order : {0, 1, 2}) {
    FeatureHistory history(order);
    for (std::int64_t position = 0; position < 5; ++position) history.add(position, random({8, 8}, position));
    history.forecast(6);
    EXPECT_EQ(history.nbytes(), num_features_held(order) * 8 * 8 * 4) << order;
  }
}

TEST(FeatureHistory, HoldsAsManyAsItNeedsAndTheBuffer) {
  FeatureHistory history(1, 3);
  EXPECT_TRUE(history.empty());
  for (std::int64_t position = 0; position < 5; ++position) history.add(position, random({8, 8}, 0));
  EXPECT_EQ(history.nbytes(), 3 * 8 * 8 * 4);
  history.forecast(6);
  EXPECT_EQ(history.nbytes(), 4 * 8 * 8 * 4);
  history.clear();
  EXPECT_TRUE(history.empty());
  EXPECT_EQ(history.nbytes(), 0);
}

TEST(FeatureHistory, GivenWeightsNeedAsManyFeatures) {
  FeatureHistory history(0, 2);
  const auto first = random({8}, 0), second = random({8}, 1);
  history.add(0, first);
  EXPECT_TRUE(history.weighted(Weights{0.25, 0.5}).equal(first));
  history.add(1, second);
  expect_tensor_near(history.weighted(Weights{0.25, 0.5}), 0.25 * second + 0.5 * first, 1e-6);
}

TEST(WeightedSum, RoundsOnceInEachDtypeAndLayout) {
  const Weights weights{1.7, -1.1, 0.4};
  for (const auto dtype : {torch::kFloat, torch::kDouble, torch::kBFloat16, torch::kHalf})
    for (const auto layout : {"contiguous", "channels last", "with gaps", "unlike"}) {
      std::vector<torch::Tensor> terms;
      for (int k = 0; k < 3; ++k) {
        auto term = random({2, 5, 33, 20}, k, dtype);
        if (layout == std::string("channels last")) term = term.contiguous(torch::MemoryFormat::ChannelsLast);
        if (layout == std::string("with gaps")) term = term.slice(3, 0, 17);
        if (layout == std::string("unlike") && k == 1) term = term.contiguous(torch::MemoryFormat::ChannelsLast);
        terms.push_back(term);
      }
      auto exact = torch::zeros_like(terms[0], torch::kDouble);
      for (std::size_t k = 0; k < 3; ++k) exact += weights[k] * terms[k].to(torch::kDouble);
      torch::Tensor buffer;
      const auto sum = weighted_sum(terms, weights, buffer);
      ASSERT_EQ(sum.scalar_type(), dtype);
      const auto epsilon = dtype == torch::kFloat      ? 1e-7
                           : dtype == torch::kDouble   ? 1e-15
                           : dtype == torch::kBFloat16 ? 1.0 / 256
                                                       : 1.0 / 2048;  // half of the last bit, at most
      const auto allowed = epsilon * 1.001 * exact.abs() + (dtype == torch::kDouble ? 1e-14 : 1e-6);
      EXPECT_TRUE((sum.to(torch::kDouble) - exact).abs().le(allowed).all().item<bool>())
          << layout << ", " << c10::toString(dtype);
    }
}

TEST(WeightedSum, OfEqualTermsIsTheTermWhereTheWeightsSumToOne) {
  const auto term = random({3, 100}, 0);
  for (const auto& other : {term, term.slice(1, 0, 50)}) {  // in one piece, and not
    const std::vector terms(3, other);
    torch::Tensor buffer;
    EXPECT_TRUE(weighted_sum(terms, Weights{3, -3, 1}, buffer).equal(other));
    EXPECT_TRUE(weighted_sum(terms, polynomial_weights(Positions{9, 6, 2}, 11), buffer).equal(other));
  }
}

TEST(WeightedSum, WritesIntoTheSameMemory) {
  const std::vector terms{random({100}, 0), random({100}, 1)};
  torch::Tensor buffer;
  const auto* first = weighted_sum(terms, Weights{1, 1}, buffer).const_data_ptr();
  EXPECT_EQ(weighted_sum(terms, Weights{2, 1}, buffer).const_data_ptr(), first);
}

}  // namespace
}  // namespace deepcache::feature_history_test
