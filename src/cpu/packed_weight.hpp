#pragma once

#include <torch/types.h>

#include <algorithm>
#include <cstdint>

#include "cpu/kernels.hpp"
#include "cpu/parallel.hpp"

namespace deepcache::cpu {

/// The shape of a packed weight (packed_layers.hpp).
struct Weight {
  Weight(const torch::Tensor& packed, std::int64_t number)
      : outputs(number), taps(packed.size(1)), inputs(packed.size(2)), block(packed.size(3)), blocks(packed.size(0)) {}
  std::int64_t outputs, taps, inputs, block, blocks;
};

/// sums [rows, columns] = input [rows, C] * weight [C, columns], in parts of C of equal size; or += if `adds`.
template <typename T>
void multiply(const T* input, std::int64_t input_stride, const T* weight, const Weight& w, std::int64_t rows,
              std::int64_t columns, float* sums, std::int64_t sums_stride, bool adds) {
  const auto& kernel = kernels<T>();
  const auto depth = divide_up(divide_up(w.inputs, divide_up(w.inputs, kernel.max_depth)), 16) * 16;
  for (std::int64_t i = 0; i < w.inputs; i += depth)
    kernel.multiply({.rows = rows,
                     .columns = columns,
                     .depth = std::min(depth, w.inputs - i),
                     .left_stride = input_stride,
                     .right_stride = w.block,
                     .right_panel = 0,
                     .sums_stride = sums_stride,
                     .adds = adds || i > 0},
                    input + i, weight + i * w.block, sums);
}

}  // namespace deepcache::cpu
