#include "cpu/upsample_convolution.hpp"

#include <algorithm>
#include <array>

#include "cpu/kernels.hpp"
#include "cpu/packed_weight.hpp"
#include "cpu/parallel.hpp"

namespace deepcache::cpu {
namespace {

constexpr std::int64_t kInputPixels = 64;  // of the input, which are computed together

/// Taps a, b, c to a, a + b + c, -c; or with `sign` -1 back.
torch::Tensor change_taps(const torch::Tensor& weight, std::int64_t dim, int sign) {
  const auto taps = weight.unbind(dim);
  return torch::stack({taps[0], taps[1] + sign * taps[0] + taps[2], -taps[2]}, dim);
}

/// What the taps multiply: pixels, and how much the one before is above each of them and what follows the last;
/// horizontally, vertically, and both.
std::array<torch::Tensor, 4> differences(const torch::Tensor& input) {
  const auto horizontal = [](const torch::Tensor& t) { return t.slice(3, 0, -1) - t.slice(3, 1); };
  const auto vertical = [](const torch::Tensor& t) { return t.slice(2, 0, -1) - t.slice(2, 1); };
  const auto padded = at::constant_pad_nd(input.contiguous(torch::MemoryFormat::ChannelsLast), {1, 1, 1, 1});
  const auto rows = vertical(padded);
  std::array<torch::Tensor, 4> planes{input, horizontal(padded.slice(2, 1, -1)), rows.slice(3, 1, -1),
                                      horizontal(rows)};
  for (auto& plane : planes) plane = plane.contiguous(torch::MemoryFormat::ChannelsLast);
  return planes;
}

/// What is computed together: rows of the input, and a block of outputs.
struct Together {
  std::int64_t rows, width, block;
  std::int64_t row_size() const { return width * block; }
  std::int64_t tap_size() const { return rows * row_size(); }
};

/// Of three taps' sums, `stride` apart, those that make the first or second of the pixels that a pixel became. Where
/// the second is cut off, what follows the first is padding, to which the third tap's difference leads.
void add_taps(const float* taps, std::int64_t stride, bool second, bool cut, std::int64_t size, float* sums) {
  const auto* const middle = taps + stride;
  const auto* const other = second ? middle + stride : taps;
  for (std::int64_t i = 0; i < size; ++i) sums[i] = middle[i] + other[i];
  if (!cut) return;
  for (std::int64_t i = 0; i < size; ++i) sums[i] += middle[stride + i];
}

/// sums [taps, rows, width, block] of the input's rows from `first_row` on to `last_row`.
template <typename T>
void multiply_taps(const std::array<torch::Tensor, 4>& planes, const Weight& w, const T* weight, std::int64_t first_row,
                   std::int64_t last_row, const Together& sizes, float* sums) {
  const auto height = planes[0].size(2);
  for (std::int64_t tap = 0; tap < w.taps; ++tap) {
    const auto tap_y = tap / 3, tap_x = tap % 3;
    const auto& plane = planes[(tap_y == 1 ? 0 : 2) + (tap_x == 1 ? 0 : 1)];
    for (auto row = first_row; row < last_row; ++row) {
      const auto y = row / height * plane.size(2) + row % height + tap_y / 2;
      multiply(plane.const_data_ptr<T>() + (y * plane.size(3) + tap_x / 2) * w.inputs, w.inputs,
               weight + tap * w.inputs * w.block, w, sizes.width, w.block,
               sums + tap * sizes.tap_size() + (row - first_row) * sizes.row_size(), w.block, false);
    }
  }
}

/// A row of the output, number y of its picture, of the taps' sums of the row that it was made of.
template <typename T>
void write_row(const float* sums, const Together& sizes, std::int64_t y, const torch::Tensor& output, const float* bias,
               std::int64_t columns, std::vector<float>& buffer, T* written) {
  const auto height = output.size(2), width = output.size(3), row = sizes.row_size(), last_pixel = row - sizes.block;
  for (std::int64_t x = 0; x < 3; ++x)
    add_taps(sums + x * sizes.tap_size(), 3 * sizes.tap_size(), y % 2 == 1, y % 2 == 0 && y + 1 == height, row,
             buffer.data() + x * row);
  auto* const pixels = buffer.data() + 3 * row;
  for (std::int64_t x = 0; x < 2; ++x) {
    add_taps(buffer.data(), row, x == 1, false, row, pixels);
    if (x == 0 && width % 2 == 1)
      add_taps(buffer.data() + last_pixel, row, false, true, sizes.block, pixels + last_pixel);
    const Tile tile{.input = pixels,
                    .rows = (width + 1 - x) / 2,
                    .columns = columns,
                    .input_stride = sizes.block,
                    .output_stride = 2 * output.size(1),
                    .bias = bias};
    kernels<T>().add_bias(tile, nullptr, written + x * output.size(1));
  }
}

template <typename T>
void convolve_doubled(const std::array<torch::Tensor, 4>& planes, const torch::Tensor& packed,
                      const std::vector<float>& bias, const torch::Tensor& output) {
  const Weight w(packed, output.size(1));
  const auto height = planes[0].size(2), width = planes[0].size(3), rows = planes[0].size(0) * height;
  const Together sizes{together(rows, kInputPixels / width, w.blocks), width, w.block};
  const auto parts = divide_up(rows, sizes.rows);
  parallel_for(w.blocks * parts, [&](std::int64_t begin, std::int64_t end) {
    std::vector<float> sums(static_cast<std::size_t>(w.taps * sizes.tap_size())),
        buffer(static_cast<std::size_t>(4 * sizes.row_size()));
    for (auto task = begin; task < end; ++task) {
      const auto block = task / parts, first_output = block * w.block, first_row = task % parts * sizes.rows;
      const auto last_row = std::min(rows, first_row + sizes.rows);
      multiply_taps(planes, w, packed.const_data_ptr<T>() + block * w.taps * w.inputs * w.block, first_row, last_row,
                    sizes, sums.data());
      for (auto out_row = 2 * first_row; out_row < 2 * last_row; ++out_row) {
        const auto row = out_row / 2, y = row % height * 2 + out_row % 2;
        if (y == output.size(2)) continue;
        const auto offset = (row / height * output.size(2) + y) * output.size(3) * w.outputs + first_output;
        write_row(sums.data() + (row - first_row) * sizes.row_size(), sizes, y, output, bias.data() + first_output,
                  std::min(w.block, w.outputs - first_output), buffer, output.mutable_data_ptr<T>() + offset);
      }
    }
    kernels<T>().end_products();
  });
}

}  // namespace

torch::Tensor fold_upsampling(const torch::Tensor& weight) {
  auto folded = torch::empty_like(weight, torch::MemoryFormat::Contiguous);
  for (std::int64_t output = 0; output < weight.size(0); ++output)
    folded[output].copy_(change_taps(change_taps(weight[output].to(torch::kFloat), 1, 1), 2, 1));
  return folded;
}

torch::Tensor unfold_upsampling(const torch::Tensor& packed) {
  const auto taps = packed.to(torch::kFloat).unflatten(1, {3, 3});
  return change_taps(change_taps(taps, 1, -1), 2, -1).flatten(1, 2).to(packed.scalar_type());
}

void convolve_upsampled(const torch::Tensor& input, const torch::Tensor& packed, const std::vector<float>& bias,
                        const torch::Tensor& output) {
  const auto compute = input.scalar_type() == torch::kFloat ? convolve_doubled<float> : convolve_doubled<c10::BFloat16>;
  compute(differences(input), packed, bias, output);
}

}  // namespace deepcache::cpu
