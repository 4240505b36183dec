#include "core/feature_history.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include "core/weighted_sum.hpp"

namespace deepcache {

std::vector<double> polynomial_weights(std::span<const std::int64_t> positions, std::int64_t position) {
  std::vector<double> weights(positions.size(), 1);
  for (std::size_t k = 0; k < positions.size(); ++k)
    for (std::size_t j = 0; j < positions.size(); ++j)
      if (j != k)
        weights[k] *= static_cast<double>(position - positions[j]) / static_cast<double>(positions[k] - positions[j]);
  return weights;
}

double FeatureHistory::share_at(std::int64_t position, double best_share) const {
  const auto ahead = static_cast<double>(position - positions_[0]);
  const auto interval = static_cast<double>(positions_[0] - positions_[1]);
  return std::clamp(1 - (1 - best_share) * (ahead + interval) / (2 * interval), 0.0, 1.0);
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
  buffer_.reset();
  best_shares_.clear();
}

double FeatureHistory::add(std::int64_t position, torch::Tensor feature) {
  double error = std::numeric_limits<double>::quiet_NaN();
  if (!features_.empty()) {
    const auto products = compare_forecast(feature, nodes(), polynomial_weights(node_positions(), position));
    double squared_error = 0, squared_norm = 0;
    std::vector<double> best_shares;
    for (std::size_t item = 0; item < products.size(); ++item) {
      const auto& of_item = products[item];
      const auto share = best_shares_.empty() ? 1 : share_at(position, best_shares_[item]);
      squared_error += of_item.change_change - 2 * share * of_item.change_move + share * share * of_item.move_move;
      squared_norm += of_item.truth_truth;
      best_shares.push_back(of_item.move_move > 0 ? of_item.change_move / of_item.move_move : 1);
    }
    error = std::sqrt(std::max(squared_error, 0.0) / squared_norm);
    if (nodes().size() > 1) best_shares_ = std::move(best_shares);
  }
  features_.insert(features_.begin(), std::move(feature));
  positions_.insert(positions_.begin(), position);
  features_.resize(std::min(features_.size(), depth_));
  positions_.resize(features_.size());
  return error;
}

torch::Tensor FeatureHistory::forecast(std::int64_t position) {
  if (nodes().size() == 1) return features_[0];
  const auto polynomial = polynomial_weights(node_positions(), position);
  if (best_shares_.empty()) return weighted(polynomial);
  std::vector<double> weights;
  for (const auto best_share : best_shares_) {
    const auto share = share_at(position, best_share);
    for (std::size_t k = 0; k < polynomial.size(); ++k)
      weights.push_back(share * polynomial[k] + (k == 0 ? 1 - share : 0));
  }
  return sum(nodes(), weights);
}

torch::Tensor FeatureHistory::weighted(std::span<const double> weights) {
  if (features_.size() < weights.size()) return features_[0];
  return sum(std::span(features_).first(weights.size()), weights);
}

torch::Tensor FeatureHistory::sum(std::span<const torch::Tensor> features, std::span<const double> weights) {
  return weighted_sum(features, weights, buffer_).detach();
}

std::int64_t FeatureHistory::nbytes() const {
  std::size_t bytes = buffer_.defined() ? buffer_.nbytes() : 0;
  for (const auto& feature : features_) bytes += feature.nbytes();
  return static_cast<std::int64_t>(bytes);
}

}  // namespace deepcache
