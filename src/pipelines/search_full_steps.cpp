#include "pipelines/search_full_steps.hpp"

#include <algorithm>
#include <functional>

namespace deepcache {
namespace {

constexpr double kShareStride = 0.4, kLargestShare = 2;

bool is_allowed(const std::vector<std::int64_t>& full_steps, std::int64_t num_steps) {
  return full_steps.back() < num_steps &&
         std::ranges::adjacent_find(full_steps, std::greater_equal()) == full_steps.end();
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
  for (auto stride = std::max<std::int64_t>(1, num_steps / (5 * count)); stride >= 1; stride /= 2)
    for (bool moved = true; moved;) {
      moved = false;
      SearchPass pass{.moves = 2 * (count - 1)};
      for (auto k = full_steps.size() - 1; k > 0; --k)
        for (const auto distance : {stride, -stride}) {
          ++pass.moves_done;
          auto tried = full_steps;
          tried[k] += distance;
          if (!is_allowed(tried, num_steps)) continue;
          const double value = score(tried, pass);
          if (value < best + least_gain) continue;
          best = value;
          full_steps = std::move(tried);
          moved = true;
        }
    }
  return full_steps;
}

std::vector<ForecastShares> search_shares(std::vector<ForecastShares> shares, bool of_halves, const SharesScore& score,
                                          double least_gain) {
  std::vector<double ForecastShares::*> parts{&ForecastShares::common};
  if (of_halves) parts.push_back(&ForecastShares::difference);
  double best = score(shares, {});
  for (bool moved = true; moved;) {
    moved = false;
    SearchPass pass{.moves = static_cast<std::int64_t>(2 * parts.size() * (shares.size() - 1))};
    for (auto k = shares.size() - 1; k > 0; --k)
      for (const auto part : parts)
        for (const auto distance : {kShareStride, -kShareStride}) {
          ++pass.moves_done;
          auto tried = shares;
          tried[k].*part += distance;
          if (tried[k].*part < 0 || tried[k].*part > kLargestShare) continue;
          const double value = score(tried, pass);
          if (value < best + least_gain) continue;
          best = value;
          shares = std::move(tried);
          moved = true;
        }
  }
  return shares;
}

}  // namespace deepcache
