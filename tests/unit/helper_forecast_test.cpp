#include <gtest/gtest.h>

#include <memory>
#include <vector>

#include "deepcache/helper.hpp"
#include "expect_error.hpp"
#include "networks.hpp"
#include "tensor_near.hpp"

namespace deepcache::helper_forecast_test {
namespace {

/// |output - full output| of each step, at timesteps 0, 1, ...
std::vector<double> errors(const CacheParams& params, int steps, const RunTraits& traits = {}) {
  Helper helper(parabola()), full(parabola());
  helper.set_params(params);
  helper.enable();
  helper.unet().begin_run({}, traits);
  const auto x = torch::linspace(-1, 2, 200).view({2, 4, 5, 5});
  std::vector<double> result;
  for (int i = 0; i < steps; ++i) {
    const std::vector<c10::IValue> inputs{x, torch::full({}, static_cast<double>(i))};
    result.push_back(
        (first_tensor(helper.forward(inputs)) - first_tensor(full.forward(inputs))).abs().max().item<double>());
  }
  return result;
}

TEST(HelperForecast, OrderTwoForecastsAParabolaOrderOneIsNearerThanReuse) {
  const auto reuse = errors({.cache_interval = 3, .forecast_order = 0}, 15);
  const auto line = errors({.cache_interval = 3, .forecast_order = 1}, 15);
  const auto curve = errors({.cache_interval = 3, .forecast_order = 2}, 15);
  for (std::size_t i = 0; i < 15; ++i) {
    if (i % 3 == 0) {
      EXPECT_EQ(reuse[i] + line[i] + curve[i], 0) << i;
      continue;
    }
    EXPECT_EQ(line[i] == reuse[i], i < 3) << i;  // one feature: nothing to forecast from
    EXPECT_EQ(curve[i] == line[i], i < 6) << i;
    if (i > 3) {
      EXPECT_LT(line[i], 0.6 * reuse[i]) << i;
    }
    if (i > 6) {
      EXPECT_LT(curve[i], 1e-4) << i;
    }
  }
}

TEST(HelperForecast, DefaultsToOrderOne) {
  EXPECT_EQ(errors({.cache_interval = 4}, 12), errors({.cache_interval = 4, .forecast_order = 1}, 12));
}

TEST(HelperForecast, OfAGuidedRunWaitsUntilItCanJudge) {
  const auto reuse = errors({.cache_interval = 3, .forecast_order = 0}, 9);
  const auto guided = errors({.cache_interval = 3}, 9, {.guided = true});
  for (const std::size_t i : {1, 2, 4, 5}) EXPECT_EQ(guided[i], reuse[i]) << i;
  for (const std::size_t i : {7, 8}) EXPECT_LT(guided[i], 0.6 * reuse[i]) << i;
}

TEST(HelperForecast, IsFollowedFartherInALongRun) {
  const auto sixth_of = [](std::int64_t num_calls) {
    const auto unet = test_unet();
    Helper helper(unet);
    helper.set_params({.cache_interval = 2});
    helper.enable();
    unet.begin_run(torch::arange(num_calls));
    for (int seed = 0; seed < 5; ++seed) call(unet, seed);
    return call(unet, 5);
  };
  EXPECT_TRUE(sixth_of(6).equal(sixth_of(0)));  // how long the run is isn't known: as in a short one
  EXPECT_FALSE(sixth_of(60).equal(sixth_of(0)));
}

TEST(HelperForecast, NotInAGuidedRunThatAddsNoise) {
  const auto reuse = errors({.cache_interval = 3, .forecast_order = 0}, 12);
  EXPECT_EQ(errors({.cache_interval = 3}, 12, {.adds_noise = true, .guided = true}), reuse);
  EXPECT_NE(errors({.cache_interval = 3}, 12, {.adds_noise = true}), reuse);
}

TEST(HelperForecast, OfAGuidedRunNeedsTwoHalves) {
  const auto unet = test_unet();
  Helper helper(unet);
  helper.set_params({.cache_interval = 2});
  helper.enable();
  unet.begin_run({}, {.guided = true});
  expect_error<std::invalid_argument>([&] { call(unet, 0, 3); }, {"two halves", "3 items"});
}

TEST(HelperForecast, AChangeOfShapeForgetsAllFeatures) {
  const auto unet = test_unet();
  Helper helper(unet);
  helper.set_params({.cache_interval = 2});
  helper.enable();
  for (int seed = 0; seed < 4; ++seed) call(unet, seed);
  const auto larger = [&](int seed) { return call(unet, seed, 1, 16); };
  larger(4);  // full
  const auto cached = larger(5);
  helper.set_params({.cache_interval = 2, .forecast_order = 0});
  larger(4);
  EXPECT_TRUE(larger(5).equal(cached));  // reused as it is
}

struct Halves : CachePolicy {
  bool is_full_step(std::int64_t step_index) const override { return step_index < 2; }
  std::string describe() const override { return "the first two"; }
  std::vector<double> forecast_weights(std::int64_t step_index) const override {
    return step_index == 3 ? std::vector<double>{} : std::vector{0.5, 0.25};
  }
  std::int64_t num_forecast_weights() const override { return 2; }
};

TEST(HelperForecast, APolicyMayGiveTheWeights) {
  Helper helper(parabola());
  helper.set_params({.forecast_order = 0, .policy = std::make_shared<Halves>()});
  helper.enable();
  const auto x = torch::rand({1, 4, 2, 2});
  std::vector<torch::Tensor> features;
  for (int i = 0; i < 3; ++i)
    features.push_back(first_tensor(helper.forward({x, torch::full({}, static_cast<double>(i))})).slice(1, 0, 4));
  expect_tensor_near(features[2], 0.5 * features[1] + 0.25 * features[0], 1e-6);
  // Where it gives none, forecast_order says, of the features that are held.
  const auto last = first_tensor(helper.forward({x, torch::full({}, 3.0)})).slice(1, 0, 4);
  EXPECT_TRUE(last.equal(features[1]));
}

TEST(HelperForecast, AListMayGiveTheShares) {
  Helper helper(parabola());
  helper.set_params({.skip_mode = SkipMode::kList, .full_steps = {0, 2, 4}, .forecast_shares = {{9}, {0.5}, {1.25}}});
  helper.enable();
  const auto x = torch::rand({1, 4, 2, 2});
  std::vector<torch::Tensor> features;
  for (int i = 0; i < 7; ++i)
    features.push_back(first_tensor(helper.forward({x, torch::full({}, static_cast<double>(i))})).slice(1, 0, 4));
  EXPECT_TRUE(features[1].equal(features[0]));
  expect_tensor_near(features[3], features[2] + (1 - 0.5 * 0.75) / 2 * (features[2] - features[0]), 1e-6);
  expect_tensor_near(features[6], features[4] + 1.25 * (features[4] - features[2]), 1e-6);
}

/// Its output is a line in the timestep.
torch::jit::Module line(const std::string& result = "torch.cat([h, x], 1)") {
  return make_module(R"(
    def forward(self, x, timestep):
        h = torch.conv2d(x, self.weight) * (1.0 + 0.5 * timestep)
        return )" + result +
                     "\n");
}

TEST(HelperWholeOutput, IsReusedAsItIsWithoutForecasts) {
  const auto unet = test_unet();
  const auto first = call(unet, 0), fourth = call(unet, 3);
  Helper helper(unet);
  helper.set_params({.cache_interval = 3, .cache_branch_id = kWholeOutput, .forecast_order = 0});
  helper.enable();
  for (int seed = 0; seed < 6; ++seed) {
    auto output = call(unet, seed);
    EXPECT_TRUE(output.equal(seed < 3 ? first : fourth)) << seed;
    output.zero_();  // the caller's own
  }
}

TEST(HelperWholeOutput, OfALineIsForecastExactly) {
  const auto x = torch::linspace(-1, 2, 200).view({2, 4, 5, 5});
  for (const bool guided : {false, true}) {
    Helper helper(line()), full(line());
    helper.set_params({.cache_interval = 3, .cache_branch_id = kWholeOutput});
    helper.enable();
    helper.unet().begin_run({}, {.guided = guided});
    for (int i = 0; i < 12; ++i) {
      const std::vector<c10::IValue> inputs{x, torch::full({}, static_cast<double>(i))};
      const auto output = first_tensor(helper.forward(inputs)), expected = first_tensor(full.forward(inputs));
      if (i % 3 == 0 || i > (guided ? 6 : 3)) {
        expect_tensor_near(output, expected, 1e-6);
      } else {
        EXPECT_FALSE(output.equal(expected)) << i;
      }
    }
  }
}

TEST(HelperWholeOutput, ComputesNothingInACachedStep) {
  const auto unet = test_unet();
  Helper helper(unet);
  helper.set_params({.cache_interval = 2, .cache_branch_id = kWholeOutput});
  helper.enable();
  torch::Tensor output;
  for (int seed = 0; seed < 5; ++seed) output = call(unet, seed);
  const auto stats = helper.stats();
  EXPECT_EQ(stats.cache_branch_id, kWholeOutput);
  EXPECT_EQ(stats.cached_steps, 2);
  EXPECT_EQ(stats.full_step, unet.profile(unet_inputs())[0].full_step);
  EXPECT_EQ(stats.cached_step.total(), 0);
  EXPECT_EQ(stats.macs_saved, 2 * stats.full_step.total());
  EXPECT_EQ(stats.cache_bytes, 3 * static_cast<std::int64_t>(output.nbytes()));  // two, and the forecast
}

TEST(HelperWholeOutput, KeepsItsStructure) {
  const auto x = torch::rand({1, 4, 2, 2});
  const auto run_two = [&](const std::string& result) {
    Helper helper(line(result));
    helper.set_params({.cache_interval = 2, .cache_branch_id = kWholeOutput});
    helper.enable();
    helper.forward({x, torch::tensor(0.0)});
    return helper.forward({x, torch::tensor(1.0)});
  };
  const auto of_one = run_two("(torch.cat([h, x], 1),)");
  ASSERT_TRUE(of_one.isTuple());
  EXPECT_EQ(of_one.toTupleRef().elements().size(), 1U);
  expect_error<std::invalid_argument>([&] { run_two("(torch.cat([h, x], 1), h)"); },
                                      {"where it is one tensor, got 2 of them"});
}

}  // namespace
}  // namespace deepcache::helper_forecast_test
