#include <algorithm>
#include <array>
#include <cmath>
#include <memory>

#include "cpu/kernels.hpp"
#include "cpu/operators.hpp"
#include "cpu/parallel.hpp"

namespace deepcache::cpu {
namespace {

constexpr std::int64_t kBlockRows = 84, kBlockColumns = 512;  // of scores: 168 KiB, in the second-level cache

/// Where a batch's and head's rows begin, and how far apart they are; elements of a row are next to each other.
template <typename T>
struct Rows {
  Rows(const torch::Tensor& tensor, std::int64_t batch_and_head)
      : data(tensor.const_data_ptr<T>() + batch_and_head / tensor.size(1) * tensor.stride(0) +
             batch_and_head % tensor.size(1) * tensor.stride(1)),
        stride(tensor.stride(2)) {}
  const T* operator[](std::int64_t row) const { return data + row * stride; }
  const T* data;
  std::int64_t stride;
};

/// How keys and values are packed: a matrix [rows, columns] as [columns / panel, rows, panel]. Rows are even in number
/// where they are interleaved.
template <typename T>
struct Panels {
  Panels(std::int64_t number_of_rows, std::int64_t columns)
      : rows(number_of_rows), panel(kernels<T>().panel), count(divide_up(columns, panel)) {}
  std::int64_t size() const { return count * rows * panel; }
  std::int64_t place(std::int64_t row, std::int64_t column) const {
    constexpr auto together = kInterleaved<T>;
    const auto first_row = column / panel * rows + row / together * together;
    return first_row * panel + column % panel * together + row % together;
  }
  std::int64_t rows, panel, count;
};

/// [L, D] to [D, L]
template <typename T>
void pack_keys(const Rows<T>& keys, std::int64_t length, const Panels<T>& panels, T* packed) {
  for (std::int64_t first = 0; first < length; first += panels.panel)
    for (std::int64_t i = 0; i < panels.rows; i += kInterleaved<T>) {
      T* to = packed + panels.place(i, first);
      for (auto row = first; row < std::min(first + panels.panel, length); ++row, to += kInterleaved<T>)
        std::copy_n(keys[row] + i, kInterleaved<T>, to);
    }
}

/// [L, D] to [L, D], and a row of zeros if an odd last one is interleaved.
template <typename T>
void pack_values(const Rows<T>& values, std::int64_t length, std::int64_t dim, const Panels<T>& panels, T* packed) {
  for (std::int64_t row = 0; row < length; row += kInterleaved<T>)
    for (std::int64_t first = 0; first < dim; first += panels.panel) {
      T* const to = packed + panels.place(row, first);
      const auto columns = std::min(panels.panel, dim - first);
      for (std::int64_t next = 0; next < kInterleaved<T>; ++next) {
        const T* const from = row + next < length ? values[row + next] + first : nullptr;
        for (std::int64_t i = 0; i < columns; ++i) to[i * kInterleaved<T> + next] = from == nullptr ? T(0) : from[i];
      }
    }
}

/// What a thread works with.
template <typename T>
struct Scratch {
  explicit Scratch(std::int64_t columns, std::int64_t dim)
      : scores(new float[kBlockRows * columns]),
        output(new float[kBlockRows * dim]),
        halves(kInterleaved<T> == 1 ? nullptr : new T[kBlockRows * columns]) {}
  T* weights() {
    if constexpr (std::is_same_v<T, float>)
      return scores.get();
    else
      return halves.get();
  }
  // NOLINTBEGIN(modernize-avoid-c-arrays): vectors would be filled with zeros, which takes long beside few tokens
  std::unique_ptr<float[]> scores, output;
  std::unique_ptr<T[]> halves;
  // NOLINTEND(modernize-avoid-c-arrays)
  std::array<float, kBlockRows> maximum{}, sum{};
};

template <typename T>
torch::Tensor attention_of(const torch::Tensor& query, const torch::Tensor& key, const torch::Tensor& value,
                           float scale) {
  const auto& kernel = kernels<T>();
  const auto batch = query.size(0), heads = query.size(1), rows = query.size(2), dim = query.size(3);
  const auto length = key.size(2), stride = odd_stride(length);
  const Panels<T> of_keys(dim, stride), of_values(stride, dim);
  const torch::Tensor keys = torch::empty({batch * heads, of_keys.size()}, query.options());
  const torch::Tensor values = torch::empty({batch * heads, of_values.size()}, query.options());
  auto* const packed_keys = keys.mutable_data_ptr<T>();
  auto* const packed_values = values.mutable_data_ptr<T>();
  parallel_for(batch * heads, [&](std::int64_t begin, std::int64_t end) {
    for (auto i = begin; i < end; ++i) {
      pack_keys(Rows<T>(key, i), length, of_keys, packed_keys + i * of_keys.size());
      pack_values(Rows<T>(value, i), length, dim, of_values, packed_values + i * of_values.size());
    }
  });

  auto output = torch::empty({batch, rows, heads, dim}, query.options());
  auto* const written = output.mutable_data_ptr<T>();
  const auto blocks = divide_up(rows, kBlockRows);
  const auto width = std::min(kBlockColumns, stride);
  parallel_for(batch * heads * blocks, [&](std::int64_t begin, std::int64_t end) {
    Scratch<T> scratch(width, dim);
    for (auto task = begin; task < end; ++task) {
      const auto i = task / blocks, first_row = task % blocks * kBlockRows;
      const auto count = std::min(kBlockRows, rows - first_row);
      const Rows<T> queries(query, i);
      for (std::int64_t column = 0; column < length; column += width) {
        const auto columns = std::min(width, length - column);
        kernel.multiply({.rows = count,
                         .columns = columns,
                         .depth = dim,
                         .left_stride = queries.stride,
                         .right_stride = of_keys.panel,
                         .right_panel = of_keys.panel * of_keys.rows,
                         .sums_stride = width,
                         .adds = false},
                        queries[first_row], packed_keys + i * of_keys.size() + of_keys.place(0, column),
                        scratch.scores.get());
        kernel.softmax_block({.rows = count,
                              .columns = columns,
                              .columns_stride = width,
                              .head_dim = dim,
                              .scale = scale,
                              .first = column == 0,
                              .scores = scratch.scores.get(),
                              .maximum = scratch.maximum.data(),
                              .sum = scratch.sum.data(),
                              .output = scratch.output.get()},
                             scratch.weights());
        kernel.multiply({.rows = count,
                         .columns = dim,
                         .depth = divide_up(columns, kInterleaved<T>) * kInterleaved<T>,
                         .left_stride = width,
                         .right_stride = of_values.panel,
                         .right_panel = of_values.panel * of_values.rows,
                         .sums_stride = dim,
                         .adds = column > 0},
                        scratch.weights(), packed_values + i * of_values.size() + of_values.place(column, 0),
                        scratch.output.get());
      }
      for (std::int64_t row = 0; row < count; ++row)
        kernel.scale_row(scratch.output.get() + row * dim, dim, 1 / scratch.sum[row],
                         written + ((i / heads * rows + first_row + row) * heads + i % heads) * dim);
    }
    kernel.end_products();
  });
  return output.transpose(1, 2);
}

bool can_compute(const torch::Tensor& query, const torch::Tensor& key, const torch::Tensor& value) {
  const auto fits = [&](const torch::Tensor& tensor) {
    return tensor.is_cpu() && tensor.dim() == 4 && tensor.scalar_type() == query.scalar_type() &&
           tensor.size(3) == query.size(3) && tensor.stride(3) == 1 && tensor.numel() > 0;
  };
  const bool shapes = fits(query) && fits(key) && fits(value) && query.size(3) % 2 == 0 &&
                      query.stride(2) >= query.size(3) && key.sizes() == value.sizes() &&
                      query.sizes().slice(0, 2) == key.sizes().slice(0, 2);
  return shapes && has_kernels(query.scalar_type());
}

}  // namespace

torch::Tensor attention(const torch::Tensor& query, const torch::Tensor& key, const torch::Tensor& value,
                        std::optional<double> scale) {
  const auto factor = static_cast<float>(scale.value_or(1 / std::sqrt(static_cast<double>(query.size(-1)))));
  if (factor < 0 || !can_compute(query, key, value))  // the largest score isn't the one with the most weight
    return at::scaled_dot_product_attention(query, key, value, std::nullopt, 0, false, scale);
  return query.scalar_type() == torch::kFloat ? attention_of<float>(query, key, value, factor)
                                              : attention_of<c10::BFloat16>(query, key, value, factor);
}

}  // namespace deepcache::cpu
