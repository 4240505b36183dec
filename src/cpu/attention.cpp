#include <cmath>
#include <vector>

#include "cpu/kernels.hpp"
#include "cpu/operators.hpp"
#include "cpu/parallel.hpp"

namespace deepcache::cpu {
namespace {

constexpr std::int64_t kBlockRows = 64, kBlockColumns = 512;  // of scores: 128 KiB, in the second-level cache

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

// Matrix products on bfloat16 read their right operand with each two rows interleaved, element by element.
constexpr bool is_interleaved(const float*) {
  return false;
}
constexpr bool is_interleaved(const c10::BFloat16*) {
  return true;
}

/// How keys and values are packed: a matrix [rows, columns] as [columns / panel, rows, panel].
struct Panels {
  Panels(std::int64_t number_of_rows, std::int64_t columns, std::int64_t width)
      : rows(number_of_rows), panel(width == 0 ? columns : width), count(divide_up(columns, panel)) {}
  std::int64_t size() const { return count * rows * panel; }
  std::int64_t place(std::int64_t row, std::int64_t column) const {
    return (column / panel * rows + row) * panel + column % panel;
  }
  std::int64_t rows, panel, count;
};

/// [L, D] to [D, L]
void pack_keys(const Rows<float>& keys, std::int64_t length, const Panels& panels, float* packed) {
  for (std::int64_t row = 0; row < length; ++row)
    for (std::int64_t i = 0; i < panels.rows; ++i) packed[panels.place(i, row)] = keys[row][i];
}

void pack_keys(const Rows<c10::BFloat16>& keys, std::int64_t length, const Panels& panels, c10::BFloat16* packed) {
  for (std::int64_t pair = 0; pair < panels.rows / 2; ++pair)
    for (std::int64_t row = 0; row < length; ++row)
      std::copy_n(keys[row] + 2 * pair, 2, packed + (pair * panels.panel + row) * 2);
}

/// [L, D] to [L, D]
void pack_values(const Rows<float>& values, std::int64_t length, std::int64_t dim, const Panels& panels,
                 float* packed) {
  for (std::int64_t row = 0; row < length; ++row)
    for (std::int64_t i = 0; i < dim; i += panels.panel)
      std::copy_n(values[row] + i, std::min(panels.panel, dim - i), packed + panels.place(row, i));
}

void pack_values(const Rows<c10::BFloat16>& values, std::int64_t length, std::int64_t dim, const Panels&,
                 c10::BFloat16* packed) {
  const std::vector<c10::BFloat16> zeros(static_cast<std::size_t>(dim));
  for (std::int64_t row = 0; row < length; row += 2) {
    const auto *upper = values[row], *lower = row + 1 < length ? values[row + 1] : zeros.data();
    for (std::int64_t i = 0; i < dim; ++i, packed += 2) {
      packed[0] = upper[i];
      packed[1] = lower[i];
    }
  }
}

/// What a thread works with.
template <typename T>
struct Scratch {
  explicit Scratch(std::int64_t columns, std::int64_t dim)
      : scores(kBlockRows * columns), output(kBlockRows * dim), maximum(kBlockRows), sum(kBlockRows) {
    if (is_interleaved(static_cast<T*>(nullptr))) halves.resize(kBlockRows * columns);
  }
  T* weights() {
    if constexpr (std::is_same_v<T, float>)
      return scores.data();
    else
      return halves.data();
  }
  std::vector<float> scores, output, maximum, sum;
  std::vector<T> halves;
};

template <typename T>
torch::Tensor attention_of(const torch::Tensor& query, const torch::Tensor& key, const torch::Tensor& value,
                           float scale) {
  constexpr bool interleaved = is_interleaved(static_cast<T*>(nullptr));
  const auto& kernel = kernels<T>();
  const auto batch = query.size(0), heads = query.size(1), rows = query.size(2), dim = query.size(3);
  const auto length = key.size(2), stride = odd_stride(length);
  const Panels of_keys(dim, stride, kernel.panel), of_values(stride, dim, kernel.panel);
  const auto keys = torch::empty({batch * heads, of_keys.size()}, query.options());
  const auto values = torch::empty({batch * heads, of_values.size()}, query.options());
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
                         .right_panel = kernel.panel * of_keys.rows,
                         .sums_stride = width,
                         .adds = false},
                        queries[first_row],
                        packed_keys + i * of_keys.size() + of_keys.place(0, column) * (interleaved ? 2 : 1),
                        scratch.scores.data());
        kernel.softmax_block({.rows = count,
                              .columns = columns,
                              .columns_stride = width,
                              .head_dim = dim,
                              .scale = scale,
                              .first = column == 0,
                              .scores = scratch.scores.data(),
                              .maximum = scratch.maximum.data(),
                              .sum = scratch.sum.data(),
                              .output = scratch.output.data()},
                             scratch.weights());
        kernel.multiply({.rows = count,
                         .columns = dim,
                         .depth = interleaved ? (columns + 1) / 2 * 2 : columns,
                         .left_stride = width,
                         .right_stride = of_values.panel,
                         .right_panel = kernel.panel * of_values.rows,
                         .sums_stride = dim,
                         .adds = column > 0},
                        scratch.weights(), packed_values + i * of_values.size() + of_values.place(column, 0),
                        scratch.output.data());
      }
      for (std::int64_t row = 0; row < count; ++row)
        kernel.scale_row(scratch.output.data() + row * dim, dim, 1 / scratch.sum[row],
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
  if (!can_compute(query, key, value))
    return at::scaled_dot_product_attention(query, key, value, std::nullopt, 0, false, scale);
  const auto factor = static_cast<float>(scale.value_or(1 / std::sqrt(static_cast<double>(query.size(3)))));
  return query.scalar_type() == torch::kFloat ? attention_of<float>(query, key, value, factor)
                                              : attention_of<c10::BFloat16>(query, key, value, factor);
}

}  // namespace deepcache::cpu
