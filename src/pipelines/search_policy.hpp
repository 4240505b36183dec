#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "deepcache/cache_policy.hpp"

namespace deepcache {

/// As many full steps as evenly spread ones can be in a run: the k-th of n at step floor(k * num_steps / n).
std::vector<std::int64_t> spread_full_steps(std::int64_t num_steps, std::int64_t count);

/// A pass over the full steps, or shares, in which each is moved back and forth.
struct SearchPass {
  std::int64_t moves_done = 0, moves = 1;
};

using FullStepsScore = std::function<double(const std::vector<std::int64_t>& full_steps, const SearchPass& pass)>;

/// Moves full steps, the first, 0, excepted, one after the other and the last ones first, as long as that raises the
/// score by `least_gain` or more: at first by a fifth of their distance, then by less, down to one step.
std::vector<std::int64_t> search_full_steps(std::int64_t num_steps, std::vector<std::int64_t> full_steps,
                                            const FullStepsScore& score, double least_gain);

using SharesScore = std::function<double(const std::vector<ForecastShares>& shares, const SearchPass& pass)>;

/// Changes shares, between 0 and 2, one after the other and the last ones first, as long as that raises the score by
/// `least_gain` or more; those after the first full step excepted, where there is nothing to forecast from.
/// @param of_halves  whether a difference is read
std::vector<ForecastShares> search_shares(std::vector<ForecastShares> shares, bool of_halves, const SharesScore& score,
                                          double least_gain);

}  // namespace deepcache
