#include "pipelines/search_policy.hpp"

#include <algorithm>
#include <cmath>
#include <functional>
#include <utility>

namespace deepcache {
namespace {

constexpr double kShareStride = 0.4, kLargestShare = 2;

bool is_allowed(const std::vector<std::int64_t>& full_steps, std::int64_t num_steps) {
  return full_steps.back() < num_steps &&
         std::ranges::adjacent_find(full_steps, std::greater_equal()) == full_steps.end();
}

/// Each changes what it is given, and says whether that is allowed.
template <typename State>
using Moves = std::vector<std::function<bool(State& state)>>;

/// Makes the moves that raise the score by `least_gain` or more, in passes, until one makes none.
template <typename State, typename Score>
void climb(State& state, double& best, const Moves<State>& moves, const Score& score, double least_gain) {
  for (bool moved = true; moved;) {
    moved = false;
    SearchPass pass{.moves = std::ssize(moves)};
    for (const auto& move : moves) {
      ++pass.moves_done;
      auto tried = state;
      if (!move(tried)) continue;
      const double value = score(tried, pass);
      if (value < best + least_gain) continue;
      best = value;
      state = std::move(tried);
      moved = true;
    }
  }
}

}  // namespace

std::vector<std::int64_t> spread_full_steps(std::int64_t num_steps, std::int64_t count) {
  std::vector<std::int64_t> full_steps;
  for (std::int64_t k = 0; k < count; ++k) full_steps.push_back(k * num_steps / count);
  return full_steps;
}

std::vector<std::int64_t> search_full_steps(std::int64_t num_steps, std::vector<std::int64_t> full_steps,
                                            const FullStepsScore& score, double least_gain) {
  const auto count = static_cast<std::int64_t>(full_steps.size());
  double best = score(full_steps, {});
  for (auto stride = std::max<std::int64_t>(1, num_steps / (5 * count)); stride >= 1; stride /= 2) {
    Moves<std::vector<std::int64_t>> moves;
    for (auto k = full_steps.size() - 1; k > 0; --k)
      for (const auto distance : {stride, -stride})
        moves.emplace_back([=](auto& steps) {
          steps[k] += distance;
          return is_allowed(steps, num_steps);
        });
    climb(full_steps, best, moves, score, least_gain);
  }
  return full_steps;
}

std::vector<ForecastShares> search_shares(std::vector<ForecastShares> shares, bool of_halves, const SharesScore& score,
                                          double least_gain) {
  std::vector<double ForecastShares::*> parts{&ForecastShares::common};
  if (of_halves) parts.push_back(&ForecastShares::difference);
  Moves<std::vector<ForecastShares>> moves;
  for (auto k = shares.size() - 1; k > 0; --k)
    for (const auto part : parts)
      for (const auto distance : {kShareStride, -kShareStride})
        moves.emplace_back([=](auto& tried) {
          auto& share = tried[k].*part;
          share = std::round(10 * (share + distance)) / 10;  // as a file shows it
          return share >= 0 && share <= kLargestShare;
        });
  double best = score(shares, {});
  climb(shares, best, moves, score, least_gain);
  return shares;
}

}  // namespace deepcache
