#pragma once

#include <cstdint>

#include "cpu/kernel_loops.hpp"

// Products of matrices: templates of what is multiplied, E. That is the type in memory, T, and the least that is taken
// of a row, an item of kItem numbers: a pair where the processor adds the products of a pair at once. E says how items
// are loaded, the same one for all lanes or one for each, and multiplied by the processor's vectors, V; how many rows
// of sums stay in registers, kMaxRows; how deep a product is computed in one go, kMaxDepth; and kFetchesAhead.
namespace deepcache::cpu {

/// What is multiplied where items are single float32 numbers.
template <typename Vectors, std::int64_t max_rows, std::int64_t max_depth, bool fetches_ahead>
struct FloatItems {
  using T = float;
  using V = Vectors;
  using Items = V::Floats;
  static constexpr std::int64_t kItem = kInterleaved<T>, kMaxRows = max_rows, kMaxDepth = max_depth;
  static constexpr bool kFetchesAhead = fetches_ahead;

  static Items load(const T* place) { return V::load(place, V::kAll); }
  static Items all(const T* place) { return V::all(*place); }
  static Items add_product(Items sum, Items a, Items b) { return V::fmadd(a, b, sum); }
};

// NOLINTBEGIN(modernize-avoid-c-arrays): std::array's functions are those of other files too.

template <typename E>  // so that each processor's files have their own
constexpr std::int64_t at_most(std::int64_t limit, std::int64_t value) {
  return value < limit ? value : limit;
}

/// An item of each row of `left` times the items of a row of `right`, added to the sums.
template <typename E, std::int64_t kRows, std::int64_t vectors>
[[gnu::always_inline]] inline void add_products(const typename E::T* left, std::int64_t left_stride,
                                                const typename E::T* right,
                                                typename E::V::Floats (&tile)[kRows][vectors]) {
  typename E::Items columns[vectors];
#pragma GCC unroll 2
  for (std::int64_t i = 0; i < vectors; ++i) columns[i] = E::load(right + i * E::V::kLanes * E::kItem);
#pragma GCC unroll 14
  for (std::int64_t row = 0; row < kRows; ++row) {
    if (row > 0 && row % 3 == 0) {
      left += 3 * left_stride;
      asm("" : "+r"(left));  // one pointer for three rows: one for each would be more than there are registers
    }
    const auto factor = E::all(left + row % 3 * left_stride);
#pragma GCC unroll 2
    for (std::int64_t i = 0; i < vectors; ++i) tile[row][i] = E::add_product(tile[row][i], factor, columns[i]);
  }
}

/// A tile of a product, of kRows, and of the first `vectors` vectors of columns of `right`, of the last of which `last`
/// says what counts.
template <typename E, std::int64_t vectors, std::int64_t kRows, typename Mask>
void multiply_tile(const Product& p, const typename E::T* left, const typename E::T* right, float* sums, Mask last) {
  using V = E::V;
  typename V::Floats tile[kRows][vectors];
#pragma GCC unroll 14
  for (auto& row : tile)
#pragma GCC unroll 2
    for (auto& values : row) values = V::all(0);
  constexpr std::int64_t kLine = 64 / sizeof(*left);
  for (std::int64_t first = 0; first < p.depth; first += kLine) {  // a cache line at a time
#pragma GCC unroll 14
    for (std::int64_t row = 0; E::kFetchesAhead && row < kRows; ++row)  // the next tile's rows
      __builtin_prefetch(left + (row + kRows) * p.left_stride + first);
    const auto* const end = left + at_most<E>(first + kLine, p.depth);
    for (const auto* place = left + first; place < end; place += E::kItem, right += E::kItem * p.right_stride)
      add_products<E>(place, p.left_stride, right, tile);
  }
  const auto add = [&](float* sum, auto values, auto mask) {  // last: short sums are more exact than long ones
    V::store(sum, p.adds ? V::load(sum, mask) + values : values, mask);
  };
#pragma GCC unroll 14
  for (std::int64_t row = 0; row < kRows; ++row, sums += p.sums_stride) {
    if (vectors == 2) add(sums, tile[row][0], V::kAll);
    add(sums + (vectors - 1) * V::kLanes, tile[row][vectors - 1], last);
  }
}

/// A tile of so many rows, at most kRows.
template <typename E, std::int64_t vectors, std::int64_t kRows = E::kMaxRows, typename Mask>
void multiply_rows(std::int64_t rows, const Product& p, const typename E::T* left, const typename E::T* right,
                   float* sums, Mask last) {
  if (rows == kRows)
    multiply_tile<E, vectors, kRows>(p, left, right, sums, last);
  else if constexpr (kRows > 1)
    multiply_rows<E, vectors, kRows - 1>(rows, p, left, right, sums, last);
}

/// All rows, in tiles whose numbers of rows differ by at most one: small tiles wait for their own sums.
template <typename E, std::int64_t vectors, typename Mask>
void multiply_columns(const Product& p, const typename E::T* left, const typename E::T* right, float* sums, Mask last) {
  constexpr std::int64_t kLine = 64 / sizeof(*right);
  const auto* const next = right + p.depth * p.right_stride;
  const auto tiles = (p.rows + E::kMaxRows - 1) / E::kMaxRows, lines = p.depth * p.right_stride / kLine;
  for (std::int64_t tile = 0; tile < tiles; ++tile) {
    const auto row = tile * p.rows / tiles, rows = (tile + 1) * p.rows / tiles - row;
    // This tile's part of what is multiplied next, into the second-level cache; few tiles would only ask.
    for (auto line = tile * lines / tiles; E::kFetchesAhead && tiles > 3 && line < (tile + 1) * lines / tiles; ++line)
      __builtin_prefetch(next + line * kLine, 0, 2);
    multiply_rows<E, vectors>(rows, p, left + row * p.left_stride, right, sums + row * p.sums_stride, last);
  }
}

/// Kernels::multiply. Columns that don't fill a vector are computed with what fills it up, which is left out.
template <typename E>
void multiply(const Product& product, const typename E::T* left, const typename E::T* right, float* sums) {
  using V = E::V;
  constexpr auto kColumns = 2 * V::kLanes;
  auto part = product;
  for (std::int64_t begin = 0; begin < product.depth; begin += E::kMaxDepth, part.adds = true) {
    part.depth = at_most<E>(E::kMaxDepth, product.depth - begin);
    for (std::int64_t column = 0; column < product.columns; column += kColumns) {
      const auto columns = product.columns - column;
      const auto* of_left = left + begin;
      const auto* of_right = right + begin * product.right_stride + column / kColumns * product.right_panel;
      if (columns >= kColumns)
        multiply_columns<E, 2>(part, of_left, of_right, sums + column, V::kAll);
      else if (columns > V::kLanes)
        multiply_columns<E, 2>(part, of_left, of_right, sums + column, V::first(columns - V::kLanes));
      else if (columns == V::kLanes)
        multiply_columns<E, 1>(part, of_left, of_right, sums + column, V::kAll);
      else
        multiply_columns<E, 1>(part, of_left, of_right, sums + column, V::first(columns));
    }
  }
}

// NOLINTEND(modernize-avoid-c-arrays)

}  // namespace deepcache::cpu
