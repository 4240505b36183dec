#pragma once

#include <torch/types.h>

#include <algorithm>
#include <cstdint>
#include <span>
#include <vector>

namespace deepcache {

/// Of the polynomial through values at `positions`, newest first, the weights of these at another position: Lagrange's.
/// A single value is kept as it is.
std::vector<double> polynomial_weights(std::span<const std::int64_t> positions, std::int64_t position);

/// Features' worth of memory that a context holds at most: those that a forecast of this order goes through, and the
/// sum that it is.
constexpr std::int64_t num_features_held(std::int64_t forecast_order) {
  return forecast_order == 0 ? 1 : forecast_order + 2;
}

/// The features of a context's last full steps, and what a cached step uses of them.
class FeatureHistory {
 public:
  /// @param forecast_order  of the polynomial of `forecast`; 0: the latest is used as it is
  /// @param num_weights     the most that `weighted` will be given; as many features are held as either needs
  explicit FeatureHistory(std::int64_t forecast_order = 0, std::int64_t num_weights = 0)
      : in_forecast_(static_cast<std::size_t>(forecast_order) + 1),
        depth_(std::max(in_forecast_, static_cast<std::size_t>(num_weights))) {}

  /// @returns how far off the forecast for this position would have been: |feature - forecast| / |feature|, by norm;
  ///          NaN if none could be made
  double add(std::int64_t position, torch::Tensor feature);
  void clear();
  bool empty() const { return features_.empty(); }

  /// The feature to use at a position after the latest's: that of a polynomial through all of them, damped for each
  /// item of the batch (dimension 0) by itself. At first it is followed wholly. Later a share of it is, 0 (the latest
  /// as it is) to 1: for as far ahead as the latest full step was, the share that would have been best there, the
  /// projection of the feature's true change on what had been forecast; nearer, more, as a parabola through the
  /// features says. May share memory with what an earlier call returned.
  torch::Tensor forecast(std::int64_t position);
  /// With given weights of the latest features, newest first. With fewer features than weights, the latest as it is.
  torch::Tensor weighted(std::span<const double> weights);

  std::int64_t nbytes() const;

 private:
  /// The features of the polynomial, and their positions.
  std::span<const torch::Tensor> nodes() const;
  std::span<const std::int64_t> node_positions() const;
  /// Behind a handle of its own, by which recorded steps see that these are other values than those before.
  torch::Tensor sum(std::span<const torch::Tensor> features, std::span<const double> weights);
  /// How much of a forecast for `position` is followed, in an item where it was `best_share` at the latest full step.
  double share_at(std::int64_t position, double best_share) const;

  std::size_t in_forecast_, depth_;
  std::vector<torch::Tensor> features_;  // newest first, as their positions
  std::vector<std::int64_t> positions_;
  torch::Tensor buffer_;             // of forecasts
  std::vector<double> best_shares_;  // of each item; empty while nothing was forecast
};

}  // namespace deepcache
