#include "cpu/parallel.hpp"

#include <ATen/TensorIterator.h>
#include <torch/types.h>

namespace deepcache::cpu {

void parallel_for(std::int64_t size, const std::function<void(std::int64_t begin, std::int64_t end)>& function) {
  const auto indices = torch::empty({size}, torch::kByte);  // of which only the addresses count
  const auto* first = static_cast<const char*>(indices.const_data_ptr());
  const auto loop = [&](char** data, const std::int64_t*, std::int64_t count, std::int64_t) {
    function(data[0] - first, data[0] - first + count);
  };
  auto iterator =
      at::TensorIteratorConfig().check_all_same_dtype(false).resize_outputs(false).add_output(indices).build();
  iterator.for_each(loop, 1);  // inside LibTorch
}

}  // namespace deepcache::cpu
