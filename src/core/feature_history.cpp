#include "core/feature_history.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include "error.hpp"

namespace deepcache {
namespace {

constexpr double kFarthest = 2;        // share of a forecast that is followed
constexpr double kFewFullSteps = 3;    // in which what scatters doesn't cancel
constexpr double kEarlierCount = 0.5;  // of what earlier full steps say of the best share, at each later one

}  // namespace

std::vector<double> polynomial_weights(std::span<const std::int64_t> positions, std::int64_t position) {
  std::vector<double> weights(positions.size(), 1);
  for (std::size_t k = 0; k < positions.size(); ++k)
    for (std::size_t j = 0; j < positions.size(); ++j)
      if (j != k)
        weights[k] *= static_cast<double>(position - positions[j]) / static_cast<double>(positions[k] - positions[j]);
  return weights;
}

std::vector<double> FeatureHistory::shares_at(std::int64_t position, std::int64_t num_parts,
                                              std::optional<ForecastShares> given) const {
  std::vector<double> shares(static_cast<std::size_t>(num_parts), of_halves_ ? 0 : 1);
  if (nodes().size() == 1 || (!given && judged_.empty())) return shares;
  const auto ahead = static_cast<double>(position - positions_[0]);
  const auto interval = static_cast<double>(positions_[0] - positions_[1]);
  const auto judged = static_cast<double>(num_added_ - std::ssize(nodes()));
  const auto to_come = std::max(0.0, static_cast<double>(num_calls_ - 1 - positions_[0])) / interval;
  const auto errors_counted = std::min(1.0, kFewFullSteps / (judged + to_come));
  const auto judged_share = [&](const Judged& part) {
    const auto best = part.move_move > 0 ? std::min(part.change_move / part.move_move, kFarthest) : 1;
    return best < 1 ? 1 - (1 - best) * errors_counted : best;
  };
  for (std::size_t part = 0; part < shares.size(); ++part) {
    auto share = given ? given->common : judged_share(judged_[part]);
    if (given && of_halves_ && part >= shares.size() / 2) share = given->difference;
    share = 1 - (1 - share) * (ahead + interval) / (2 * interval);
    shares[part] = given ? share : std::max(0.0, share);
  }
  return shares;
}

std::span<const torch::Tensor> FeatureHistory::nodes() const {
  return std::span(features_).first(std::min(features_.size(), in_forecast_));
}

std::span<const std::int64_t> FeatureHistory::node_positions() const {
  return std::span(positions_).first(nodes().size());
}

void FeatureHistory::clear() {
  features_.clear();
  positions_.clear();
  num_added_ = 0;
  buffer_.reset();
  judged_.clear();
}

double FeatureHistory::add(std::int64_t position, torch::Tensor feature, std::optional<ForecastShares> given) {
  check_argument(!of_halves_ || feature.size(0) % 2 == 0,
                 "the batches of a guided run are of two halves, of one size, got {} items", feature.size(0));
  double error = std::numeric_limits<double>::quiet_NaN();
  if (!features_.empty()) {
    const auto products =
        compare_forecast(feature, nodes(), polynomial_weights(node_positions(), position), of_halves_);
    const auto shares = shares_at(position, std::ssize(products), given);
    double squared_error = 0, squared_norm = 0;
    for (std::size_t part = 0; part < products.size(); ++part) {
      const auto& of_part = products[part];
      const auto share = shares[part];
      squared_error += of_part.change_change - 2 * share * of_part.change_move + share * share * of_part.move_move;
      squared_norm += of_part.truth_truth;
    }
    error = std::sqrt(std::max(squared_error, 0.0) / squared_norm);
    if (in_forecast_ > 1 && nodes().size() == in_forecast_) judge(products);
  }
  features_.insert(features_.begin(), std::move(feature));
  positions_.insert(positions_.begin(), position);
  ++num_added_;
  features_.resize(std::min(features_.size(), depth_));
  positions_.resize(features_.size());
  return error;
}

void FeatureHistory::judge(std::span<const ForecastProducts> products) {
  judged_.resize(products.size());
  for (std::size_t part = 0; part < products.size(); ++part) {
    auto& [change_move, move_move] = judged_[part];
    change_move = kEarlierCount * change_move + products[part].change_move;
    move_move = kEarlierCount * move_move + products[part].move_move;
  }
}

WeightedTerms FeatureHistory::forecast_terms(std::int64_t position, std::optional<ForecastShares> given) const {
  if (nodes().size() == 1) return {{features_[0]}, {1}};
  const auto items = features_[0].size(0);
  const auto of_parts = shares_at(position, items, given);
  std::vector<Shares> shares;
  for (std::size_t item = 0; item < of_parts.size(); ++item) {
    const auto half = of_parts.size() / 2;
    const auto common = of_parts[of_halves_ ? item % half : item];
    const auto difference = of_halves_ ? of_parts[half + item % half] : common;
    shares.push_back({.own = (common + difference) / 2, .partner = (common - difference) / 2});
  }
  return {{nodes().begin(), nodes().end()}, polynomial_weights(node_positions(), position), std::move(shares)};
}

WeightedTerms FeatureHistory::weighted_terms(std::span<const double> weights) const {
  if (features_.size() < weights.size()) return {{features_[0]}, {1}};
  const auto features = std::span(features_).first(weights.size());
  return {{features.begin(), features.end()}, {weights.begin(), weights.end()}};
}

torch::Tensor FeatureHistory::sum(const WeightedTerms& terms) {
  if (terms.weights == std::vector<double>{1}) return terms.terms[0];
  return weighted_sum(terms.terms, terms.weights, buffer_, terms.shares);
}

std::int64_t FeatureHistory::nbytes() const {
  std::size_t bytes = buffer_.defined() ? buffer_.nbytes() : 0;
  for (const auto& feature : features_) bytes += feature.nbytes();
  return static_cast<std::int64_t>(bytes);
}

}  // namespace deepcache
