#pragma once

#include <torch/types.h>

#include <algorithm>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "core/weighted_sum.hpp"
#include "deepcache/cache_policy.hpp"

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
  /// @param of_halves       whether batches are of two halves, of which guidance multiplies the difference
  /// @param num_calls       how many positions there are; 0: not known
  explicit FeatureHistory(std::int64_t forecast_order = 0, std::int64_t num_weights = 0, bool of_halves = false,
                          std::int64_t num_calls = 0)
      : in_forecast_(static_cast<std::size_t>(forecast_order) + 1),
        depth_(std::max(in_forecast_, static_cast<std::size_t>(num_weights))),
        of_halves_(of_halves),
        num_calls_(num_calls) {}

  /// @param given  as of `forecast`
  /// @returns how far off the forecast for this position would have been: |feature - forecast| / |feature|, by norm;
  ///          NaN if none could be made
  /// @throws std::invalid_argument if the batch should be of two halves, and its size is odd
  double add(std::int64_t position, torch::Tensor feature, std::optional<ForecastShares> given = {});
  void clear();
  bool empty() const { return features_.empty(); }
  std::int64_t num_added() const { return num_added_; }  ///< since it was empty

  /// The feature to use at a position after the latest's: that of a polynomial through all of them, of which a share is
  /// followed, from 0 (the latest as it is) to 2. Each item of the batch (dimension 0) has its own share; of two
  /// halves, what an item and its partner have in common has one, and what they differ in another, which is mostly
  /// lower and counts for more. At first the polynomial is followed wholly; of two halves, not at all. Once one of this
  /// order can be judged:
  /// 1. The share that would have been best at the full steps so far: the projection of the feature's true changes on
  ///    what had been forecast, in which each full step counts twice what the one before does.
  /// 2. What that is below 1 counts for less in a run of more full steps, judged ones and those to come at the latest
  ///    interval: 3 / count of it from the fourth on. Where features scatter about a line, the best share is low too;
  ///    but what scatters cancels over a run, and always going too short a way adds up.
  /// 3. That is for as far ahead as the latest full step was. Nearer, less of the difference from 1, as a parabola
  ///    through the features says.
  /// docs/quality.md has what each is worth. May share memory with what an earlier call returned.
  /// @param given  shares instead of those of 1 and 2
  torch::Tensor forecast(std::int64_t position, std::optional<ForecastShares> given = {}) {
    return sum(forecast_terms(position, given));
  }
  /// With given weights of the latest features, newest first. With fewer features than weights, the latest as it is.
  torch::Tensor weighted(std::span<const double> weights) { return sum(weighted_terms(weights)); }

  /// The same in two parts: what is added up, and the sum.
  WeightedTerms forecast_terms(std::int64_t position, std::optional<ForecastShares> given = {}) const;
  WeightedTerms weighted_terms(std::span<const double> weights) const;
  torch::Tensor sum(const WeightedTerms& terms);

  std::size_t depth() const { return depth_; }  ///< the most terms
  bool of_halves() const { return of_halves_; }

  std::int64_t nbytes() const;

 private:
  /// Of one part, sums over full steps: what gives the best share.
  struct Judged {
    double change_move = 0, move_move = 0;
  };

  void judge(std::span<const ForecastProducts> products);
  /// The features of the polynomial, and their positions.
  std::span<const torch::Tensor> nodes() const;
  std::span<const std::int64_t> node_positions() const;
  /// How much of a forecast for `position` is followed, of each part that `compare_forecast` compares.
  std::vector<double> shares_at(std::int64_t position, std::int64_t num_parts,
                                std::optional<ForecastShares> given) const;

  std::size_t in_forecast_, depth_;
  bool of_halves_;
  std::int64_t num_calls_;
  std::int64_t num_added_ = 0;
  std::vector<torch::Tensor> features_;  // newest first, as their positions
  std::vector<std::int64_t> positions_;
  torch::Tensor buffer_;        // of forecasts
  std::vector<Judged> judged_;  // of each part; empty while nothing was forecast
};

}  // namespace deepcache
