#pragma once

#include <cstdint>
#include <vector>

namespace deepcache {

/// What non-uniform full steps depend on, besides the number of steps.
struct NonUniform {
  std::int64_t cache_interval = 1;
  std::int64_t center = 0;
  double pow = 1.2;
};

/// Throws std::invalid_argument for what is wrong whatever the number of steps.
void check_non_uniform(const NonUniform& rule);

/// As many as every `cache_interval`-th step gives.
constexpr std::int64_t count_full_steps(std::int64_t num_steps, std::int64_t cache_interval) {
  return (num_steps - 1) / cache_interval + 1;
}

/// `count` full steps, spread evenly from the first step to the last but one; 0, 1, 2, ... where that are all.
std::vector<std::int64_t> even_full_steps(std::int64_t num_steps, std::int64_t count);

}  // namespace deepcache
