#include "cpu/parallel.hpp"

#include <ATen/Parallel.h>
#include <ATen/TensorIterator.h>
#include <torch/types.h>

#include <algorithm>
#include <atomic>

namespace deepcache::cpu {

void parallel_for(std::int64_t size, const std::function<void(std::int64_t begin, std::int64_t end)>& function) {
  constexpr std::int64_t kPartsAThread = 8;
  const std::int64_t threads = at::get_num_threads(),
                     part = std::max<std::int64_t>(1, size / (threads * kPartsAThread));
  std::atomic<std::int64_t> next = 0;
  const auto loop = [&](char**, const std::int64_t*, std::int64_t, std::int64_t) {
    for (auto begin = next.fetch_add(part); begin < size; begin = next.fetch_add(part))
      function(begin, std::min(size, begin + part));
  };
  const auto one_a_thread = torch::empty({std::min(threads, size)}, torch::kByte);
  auto iterator =
      at::TensorIteratorConfig().check_all_same_dtype(false).resize_outputs(false).add_output(one_a_thread).build();
  iterator.for_each(loop, 1);  // inside LibTorch
}

std::int64_t together(std::int64_t size, std::int64_t most, std::int64_t blocks) {
  const auto parts = divide_up(std::int64_t{4} * at::get_num_threads(), blocks);
  const auto rows = std::clamp<std::int64_t>(size / parts, 1, std::max<std::int64_t>(1, most));
  return divide_up(size, divide_up(size, rows));
}

}  // namespace deepcache::cpu
