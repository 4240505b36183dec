#include "cpu/kernel_loops.hpp"
#include "cpu/vector_avx2.hpp"

namespace deepcache::cpu {
namespace {

// NOLINTBEGIN(modernize-avoid-c-arrays): std::array's functions are those of other files too.

using V = Avx2;
constexpr std::int64_t kMaxRows = 6, kVectors = 2;  // of a tile, whose sums stay in registers
constexpr auto kColumns = kAvx2Columns;
static_assert(kColumns == kVectors * V::kLanes);

std::int64_t at_most(std::int64_t limit, std::int64_t value) {
  return value < limit ? value : limit;
}

/// A tile of a product, of kRows, and of the first `vectors` vectors of columns of `right`, whose rows are 16 columns.
template <std::int64_t kRows, std::int64_t vectors>
void multiply_tile(const Product& p, const float* left, const float* right, float* sums) {
  V::Floats tile[kRows][vectors];
#pragma GCC unroll 6
  for (std::int64_t row = 0; row < kRows; ++row)
#pragma GCC unroll 2
    for (std::int64_t i = 0; i < vectors; ++i) tile[row][i] = V::all(0);
  for (std::int64_t k = 0; k < p.depth; ++k, right += kColumns) {
    if (k % 16 == 0)  // the next tile's rows, a cache line at a time
#pragma GCC unroll 6
      for (std::int64_t row = 0; row < kRows; ++row) __builtin_prefetch(left + (row + kRows) * p.left_stride + k);
    V::Floats columns[vectors];
#pragma GCC unroll 2
    for (std::int64_t i = 0; i < vectors; ++i) columns[i] = V::load(right + i * V::kLanes, V::kAll);
#pragma GCC unroll 6
    for (std::int64_t row = 0; row < kRows; ++row) {
      const auto factor = V::all(left[row * p.left_stride + k]);
#pragma GCC unroll 2
      for (std::int64_t i = 0; i < vectors; ++i) tile[row][i] = V::fmadd(factor, columns[i], tile[row][i]);
    }
  }
#pragma GCC unroll 6
  for (std::int64_t row = 0; row < kRows; ++row)
#pragma GCC unroll 2
    for (std::int64_t i = 0; i < vectors; ++i) {
      auto* sum = sums + row * p.sums_stride + i * V::kLanes;  // added last: short sums are more exact than long ones
      V::store(sum, p.adds ? V::load(sum, V::kAll) + tile[row][i] : tile[row][i], V::kAll);
    }
}

/// All rows, in tiles whose numbers of rows differ by at most one: small tiles wait for their own sums.
template <std::int64_t vectors>
void multiply_columns(const Product& p, const float* left, const float* right, float* sums) {
  constexpr decltype(&multiply_tile<1, vectors>) kOfRows[] = {multiply_tile<1, vectors>, multiply_tile<2, vectors>,
                                                              multiply_tile<3, vectors>, multiply_tile<4, vectors>,
                                                              multiply_tile<5, vectors>, multiply_tile<6, vectors>};
  const auto tiles = (p.rows + kMaxRows - 1) / kMaxRows;
  for (std::int64_t tile = 0; tile < tiles; ++tile) {
    const auto row = tile * p.rows / tiles, rows = (tile + 1) * p.rows / tiles - row;
    // This tile's part of what is multiplied next, into the second-level cache; few tiles would only ask.
    for (auto k = tile * p.depth / tiles; tiles > 3 && k < (tile + 1) * p.depth / tiles; ++k)
      __builtin_prefetch(right + (p.depth + k) * kColumns, 0, 2);
    kOfRows[rows - 1](p, left + row * p.left_stride, right, sums + row * p.sums_stride);
  }
}

/// Of columns that don't fill vectors: the others are computed too, and left out.
void multiply_some_columns(const Product& p, const float* left, const float* right, float* sums) {
  alignas(32) float tile[kMaxRows * kColumns];
  Product of_tile{.rows = 0,
                  .columns = kColumns,
                  .depth = p.depth,
                  .left_stride = p.left_stride,
                  .right_stride = kColumns,
                  .right_panel = 0,
                  .sums_stride = kColumns,
                  .adds = false};
  for (std::int64_t first = 0; first < p.rows; first += kMaxRows) {
    of_tile.rows = at_most(kMaxRows, p.rows - first);
    multiply_columns<kVectors>(of_tile, left + first * p.left_stride, right, tile);
    for (std::int64_t row = 0; row < of_tile.rows; ++row)
      for_lanes<V>(p.columns, [&](std::int64_t c, auto mask) {
        auto* sum = sums + (first + row) * p.sums_stride + c;
        const auto product = V::load(tile + row * kColumns + c, mask);
        V::store(sum, p.adds ? V::load(sum, mask) + product : product, mask);
      });
  }
}

/// Copies whole vectors of columns next to each other; or any number, and fills up with zeros.
template <std::int64_t vectors>
void pack_columns(const Product& p, const float* right, float* packed) {
  for (std::int64_t k = 0; k < p.depth; ++k, right += p.right_stride, packed += kColumns)
#pragma GCC unroll 2
    for (std::int64_t i = 0; i < vectors; ++i)
      V::store(packed + i * V::kLanes, V::load(right + i * V::kLanes, V::kAll), V::kAll);
}

void pack_some_columns(const Product& p, const float* right, float* packed) {
  for (std::int64_t k = 0; k < p.depth; ++k, right += p.right_stride, packed += kColumns)
    for (std::int64_t c = 0; c < kColumns; ++c) packed[c] = c < p.columns ? right[c] : 0;
}

/// At most 16 columns, and at most kAvx2Depth deep.
void multiply_part(const Product& p, const float* left, const float* right, float* sums) {
  alignas(32) float packed[kAvx2Depth * kColumns];
  const bool packs = p.right_stride != kColumns;
  const auto* columns = packs ? packed : right;
  if (p.columns == kColumns) {
    if (packs) pack_columns<kVectors>(p, right, packed);
    multiply_columns<kVectors>(p, left, columns, sums);
  } else if (p.columns == V::kLanes) {
    if (packs) pack_columns<1>(p, right, packed);
    multiply_columns<1>(p, left, columns, sums);
  } else {
    if (packs) pack_some_columns(p, right, packed);
    multiply_some_columns(p, left, columns, sums);
  }
}

// NOLINTEND(modernize-avoid-c-arrays)

}  // namespace

void multiply_by_avx2(const Product& product, const float* left, const float* right, float* sums) {
  auto part = product;
  for (std::int64_t begin = 0; begin < product.depth; begin += kAvx2Depth, part.adds = true) {
    part.depth = at_most(kAvx2Depth, product.depth - begin);
    for (std::int64_t column = 0; column < product.columns; column += kColumns) {
      part.columns = at_most(kColumns, product.columns - column);
      const auto first = product.right_panel == 0 ? column : column / kColumns * product.right_panel;
      multiply_part(part, left + begin, right + begin * product.right_stride + first, sums + column);
    }
  }
}

}  // namespace deepcache::cpu
