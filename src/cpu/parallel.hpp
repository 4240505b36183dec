#pragma once

#include <cstdint>
#include <functional>

namespace deepcache::cpu {

/// function(begin, end) for parts of 0 to `size`, on LibTorch's threads, each of which takes the next part when it is
/// done with one. at::parallel_for runs in our own code only if that is compiled with OpenMP, which brings a second
/// pool of threads where LibTorch has its own copy of the library: they would wait for each other by spinning.
void parallel_for(std::int64_t size, const std::function<void(std::int64_t begin, std::int64_t end)>& function);

/// How many of `size` rows to compute together, for each of `blocks` blocks of something else: at most so many, so few
/// that all threads have work, and about as many each time.
std::int64_t together(std::int64_t size, std::int64_t most, std::int64_t blocks);

constexpr std::int64_t divide_up(std::int64_t a, std::int64_t b) {
  return (a + b - 1) / b;
}

/// At least `size` numbers, an odd multiple of 16: rows whose distance is a power of two would be in the same places of
/// the caches.
constexpr std::int64_t odd_stride(std::int64_t size) {
  return (divide_up(size, 16) | 1) * 16;
}

}  // namespace deepcache::cpu
