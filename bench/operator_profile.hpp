#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

/// Where the time of a step goes, by kind of operator.
namespace deepcache::bench {

struct OperatorTime {
  std::string name;        ///< such as "aten::conv2d": those that were called, with all that they call themselves
  std::int64_t calls = 0;  ///< all of this in one step
  double milliseconds = 0;
  std::int64_t macs = 0;  ///< multiply-accumulates, 0 where the library counts none
};

/// Runs the step so many times on this thread, and takes the mean.
/// @returns the longest first; last is "between operators", what the step takes besides
std::vector<OperatorTime> profile_operators(const std::function<void()>& step, int times);

}  // namespace deepcache::bench
