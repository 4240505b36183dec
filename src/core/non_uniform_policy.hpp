#pragma once

#include <cstdint>

namespace deepcache {

/// What non-uniform full steps depend on, besides the number of steps.
struct NonUniform {
  std::int64_t cache_interval = 1;
  std::int64_t center = 0;
  double pow = 1.2;
};

/// Throws std::invalid_argument for what is wrong whatever the number of steps.
void check_non_uniform(const NonUniform& rule);

}  // namespace deepcache
