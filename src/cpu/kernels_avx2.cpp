#include "cpu/kernel_loops.hpp"
#include "cpu/vector_avx2.hpp"

namespace deepcache::cpu {
namespace {

using V = Avx2;
constexpr std::int64_t kColumns = 2 * V::kLanes;  // of a tile, whose sums stay in registers
constexpr std::int64_t kMaxRows = 6;              // likewise
constexpr std::int64_t kMaxDepth = 256;           // with the columns, 16 KiB of the right operand: half of the L1 cache

/// A tile of a product, of so many rows, and 16 columns that are next to each other in `right`.
template <std::int64_t kRows>
void multiply_tile(const Product& p, const float* left, const float* right, float* sums) {
  V::Floats tile[kRows][2];
#pragma GCC unroll 6
  for (std::int64_t row = 0; row < kRows; ++row)
    for (const auto half : {0, 1})
      tile[row][half] = p.adds ? V::load(sums + row * p.sums_stride + half * V::kLanes, V::kAll) : V::all(0);
  for (std::int64_t i = 0; i < p.depth; ++i, right += kColumns) {
    const auto first = V::load(right, V::kAll), second = V::load(right + V::kLanes, V::kAll);
#pragma GCC unroll 6
    for (std::int64_t row = 0; row < kRows; ++row) {
      const auto factor = V::all(left[row * p.left_stride + i]);
      tile[row][0] = V::fmadd(factor, first, tile[row][0]);
      tile[row][1] = V::fmadd(factor, second, tile[row][1]);
    }
  }
#pragma GCC unroll 6
  for (std::int64_t row = 0; row < kRows; ++row)
    for (const auto half : {0, 1}) V::store(sums + row * p.sums_stride + half * V::kLanes, tile[row][half], V::kAll);
}

/// 16 columns of a product, in tiles of rows whose numbers differ by at most one: small ones wait for their own sums.
void multiply_columns(const Product& p, const float* left, const float* right, float* sums) {
  const auto tiles = (p.rows + kMaxRows - 1) / kMaxRows;
  for (std::int64_t tile = 0; tile < tiles; ++tile) {
    const auto row = tile * p.rows / tiles, rows = (tile + 1) * p.rows / tiles - row;
    constexpr decltype(&multiply_tile<1>) kBySize[] = {multiply_tile<1>, multiply_tile<2>, multiply_tile<3>,
                                                       multiply_tile<4>, multiply_tile<5>, multiply_tile<6>};
    kBySize[rows - 1](p, left + row * p.left_stride, right, sums + row * p.sums_stride);
  }
}

/// Copies columns of the right operand, so that they are next to each other, and fills up to 16.
void pack(const Product& p, std::int64_t columns, const float* right, float* packed) {
  for (std::int64_t i = 0; i < p.depth; ++i, right += p.right_stride, packed += kColumns) {
    if (columns == kColumns) {
      for (const auto half : {0, 1})
        V::store(packed + half * V::kLanes, V::load(right + half * V::kLanes, V::kAll), V::kAll);
    } else {
      for (std::int64_t c = 0; c < kColumns; ++c) packed[c] = c < columns ? right[c] : 0;
    }
  }
}

/// Columns that aren't there are computed, and left out.
void multiply_last_columns(const Product& p, std::int64_t columns, const float* left, const float* right, float* sums) {
  alignas(32) float tile[kMaxRows * kColumns];
  for (std::int64_t row = 0; row < p.rows; row += kMaxRows) {
    const auto rows = p.rows - row < kMaxRows ? p.rows - row : kMaxRows;
    const Product of_tile{rows, kColumns, p.depth, p.left_stride, kColumns, kColumns, false};
    multiply_columns(of_tile, left + row * p.left_stride, right, tile);
    for (std::int64_t r = 0; r < rows; ++r)
      for (std::int64_t c = 0; c < columns; ++c) {
        auto& sum = sums[(row + r) * p.sums_stride + c];
        sum = (p.adds ? sum : 0) + tile[r * kColumns + c];
      }
  }
}

void multiply(const Product& product, const float* left, const float* right, float* sums) {
  alignas(32) float packed[kMaxDepth * kColumns];
  auto part = product;
  for (std::int64_t begin = 0; begin < product.depth; begin += kMaxDepth, part.adds = true) {
    part.depth = product.depth - begin < kMaxDepth ? product.depth - begin : kMaxDepth;
    for (std::int64_t column = 0; column < product.columns; column += kColumns) {
      const auto columns = product.columns - column < kColumns ? product.columns - column : kColumns;
      const auto* operand = right + begin * product.right_stride + column;
      if (product.right_stride != kColumns) {
        pack(part, columns, operand, packed);
        operand = packed;
      }
      if (columns == kColumns)
        multiply_columns(part, left + begin, operand, sums + column);
      else
        multiply_last_columns(part, columns, left + begin, operand, sums + column);
    }
  }
}

}  // namespace

constinit const Kernels<float> kFloatKernelsAvx2{.max_block = kColumns,
                                                 .max_depth = kMaxDepth,
                                                 .multiply = multiply,
                                                 .end_products = [] {},
                                                 .softmax_block = softmax_block<V, float>,
                                                 .scale_row = scale_row<V, float>,
                                                 .add_bias = add_bias<V, float>,
                                                 .add_moments = add_moments<V, float>,
                                                 .apply = apply<V, float>,
                                                 .gated_gelu = gated_gelu<V, float>};

}  // namespace deepcache::cpu
