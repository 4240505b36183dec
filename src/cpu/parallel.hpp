#pragma once

#include <cstdint>
#include <functional>

namespace deepcache::cpu {

/// function(begin, end) for parts of 0 to `size`, on LibTorch's threads, each of which takes the next part when it is
/// done with one. at::parallel_for runs in our own code only if that is compiled with OpenMP, which brings a second
/// pool of threads where LibTorch has its own copy of the library: they would wait for each other by spinning.
void parallel_for(std::int64_t size, const std::function<void(std::int64_t begin, std::int64_t end)>& function);

}  // namespace deepcache::cpu
