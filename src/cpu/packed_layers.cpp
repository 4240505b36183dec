#include "cpu/packed_layers.hpp"

#include <ATen/Parallel.h>

#include <algorithm>
#include <array>
#include <vector>

#include "cpu/kernels.hpp"
#include "cpu/operators.hpp"
#include "cpu/packed_weight.hpp"
#include "cpu/parallel.hpp"
#include "cpu/upsample_convolution.hpp"
#include "cpu/winograd.hpp"

namespace deepcache::cpu {
namespace {

// What is computed together.
constexpr std::int64_t kMaxRows = 126;  // of a linear layer's input
constexpr std::int64_t kColumns = 64;   // of its output: what is written of a row is whole cache lines; 32 KiB of sums
constexpr std::int64_t kPixels = 256;   // of a convolution's output: at most 64 KiB of sums

/// Outputs that are computed together: the largest block that fills up nothing, if there is one.
std::int64_t block_of(std::int64_t outputs, std::int64_t panel) {
  for (auto block = panel; block >= 16; block -= 16)
    if (outputs % block == 0) return block;
  return std::min(panel, divide_up(outputs, 16) * 16);
}

/// Weight [O, C, taps] in blocks.
template <typename T>
torch::Tensor pack(const torch::Tensor& weight) {
  const auto outputs = weight.size(0), inputs = weight.size(1), taps = weight.numel() / (outputs * inputs);
  const std::int64_t block = block_of(outputs, kernels<T>().panel), blocks = divide_up(outputs, block);
  const std::vector<std::int64_t> shape{blocks, taps, inputs, block};
  torch::Tensor packed =
      outputs % block == 0 ? torch::empty(shape, weight.options()) : torch::zeros(shape, weight.options());
  const auto* const read = weight.const_data_ptr<T>();
  auto* const written = packed.mutable_data_ptr<T>();
  constexpr auto pair = kInterleaved<T>;
  parallel_for(blocks, [&](std::int64_t begin, std::int64_t end) {
    for (auto output = begin * block; output < std::min(outputs, end * block); ++output)
      for (std::int64_t tap = 0; tap < taps; ++tap) {
        const auto* from = read + output * inputs * taps + tap;
        auto* to = written + (output / block * taps + tap) * inputs * block + output % block * pair;
        for (std::int64_t i = 0; i < inputs; ++i) to[i / pair * pair * block + i % pair] = from[i * taps];
      }
  });
  return packed;
}

std::vector<float> bias_of(const std::optional<torch::Tensor>& bias, std::int64_t size) {
  std::vector<float> floats(static_cast<std::size_t>(size));
  if (!bias || !bias->defined()) return floats;
  const auto values = bias->to(torch::kFloat).contiguous();
  std::copy_n(values.const_data_ptr<float>(), size, floats.begin());
  return floats;
}

void check_input(const torch::Tensor& input, const torch::Tensor& packed, std::int64_t dim, const char* what) {
  TORCH_CHECK(input.is_cpu() && input.scalar_type() == packed.scalar_type(), "the layer computes in ",
              packed.scalar_type(), " on the CPU, its input is ", input.scalar_type(), " on ", input.device());
  TORCH_CHECK(input.size(dim) == packed.size(2), "expected the layer's input to have ", packed.size(2), " ", what,
              ", but got ", input.size(dim), ": ", input.sizes());
}

/// The tile of sums of `columns` outputs.
Tile tile_of(const std::vector<float>& sums, std::int64_t columns, const Weight& w, const std::vector<float>& bias,
             std::int64_t first_output, std::int64_t rows) {
  return {.input = sums.data(),
          .rows = rows,
          .columns = std::min(columns, w.outputs - first_output),
          .input_stride = columns,
          .output_stride = w.outputs,
          .bias = bias.data() + first_output};
}

/// What is added to the output: the same place in a tensor of the same layout; null if there is none.
template <typename T>
const T* place_in(const torch::Tensor& added, std::int64_t offset) {
  return added.defined() ? added.const_data_ptr<T>() + offset : nullptr;
}

template <typename T>
void linear_rows(const torch::Tensor& input, const torch::Tensor& packed, const Weight& w,
                 const std::vector<float>& bias, const torch::Tensor& added, const torch::Tensor& output) {
  const auto* read = input.const_data_ptr<T>();
  const auto* weight = packed.const_data_ptr<T>();
  auto* written = output.mutable_data_ptr<T>();
  const auto rows = input.numel() / w.inputs;
  const auto columns = std::max(w.block, kColumns / w.block * w.block), groups = divide_up(w.outputs, columns);
  const auto rows_together = together(rows, kMaxRows, groups), parts = divide_up(rows, rows_together);
  parallel_for(groups * parts, [&](std::int64_t begin, std::int64_t end) {
    std::vector<float> sums(static_cast<std::size_t>(rows_together * columns));
    for (auto task = begin; task < end; ++task) {
      // All of the weights for a part of the rows, which stays in the second-level cache.
      const auto first_output = task % groups * columns, first_row = task / groups * rows_together;
      const auto offset = first_row * w.outputs + first_output;
      const auto tile = tile_of(sums, columns, w, bias, first_output, std::min(rows_together, rows - first_row));
      for (std::int64_t column = 0; column < tile.columns; column += w.block)
        multiply(read + first_row * w.inputs, w.inputs, weight + (first_output + column) * w.inputs, w, tile.rows,
                 std::min(w.block, tile.columns - column), sums.data() + column, columns, false);
      kernels<T>().add_bias(tile, place_in<T>(added, offset), written + offset);
    }
    kernels<T>().end_products();
  });
}

struct Window {
  std::int64_t kernel_height, kernel_width, stride_height, stride_width, padding_height, padding_width;
};

/// Of a row of output pixels, those whose input at `tap` isn't padding.
struct Inside {
  Inside(std::int64_t tap, std::int64_t stride, std::int64_t padding, std::int64_t input_size, std::int64_t output_size)
      : begin(std::max<std::int64_t>(0, divide_up(padding - tap, stride))),
        end(std::min(output_size, divide_up(std::max<std::int64_t>(0, input_size + padding - tap), stride))) {}
  std::int64_t begin, end;
};

template <typename T>
void convolve(const torch::Tensor& input, const torch::Tensor& packed, const Weight& w, const Window& window,
              const std::vector<float>& bias, const torch::Tensor& added, const torch::Tensor& output) {
  const auto* read = input.const_data_ptr<T>();
  const auto* weight = packed.const_data_ptr<T>();
  auto* written = output.mutable_data_ptr<T>();
  const auto height = input.size(2), width = input.size(3), out_height = output.size(2), out_width = output.size(3);
  const auto rows = input.size(0) * out_height;
  const auto rows_together = together(rows, kPixels / out_width, w.blocks), parts = divide_up(rows, rows_together);
  parallel_for(w.blocks * parts, [&](std::int64_t begin, std::int64_t end) {
    std::vector<float> sums(static_cast<std::size_t>(rows_together * out_width * w.block));
    for (auto task = begin; task < end; ++task) {
      const auto block = task / parts, first_output = block * w.block, first_row = task % parts * rows_together;
      const auto columns = std::min(w.block, w.outputs - first_output);
      const auto last_row = std::min(rows, first_row + rows_together);
      std::ranges::fill(sums, 0.0F);
      for (std::int64_t tap = 0; tap < w.taps; ++tap) {
        const auto tap_y = tap / window.kernel_width, tap_x = tap % window.kernel_width;
        const Inside inside(tap_x, window.stride_width, window.padding_width, width, out_width);
        if (inside.begin >= inside.end) continue;
        const auto first_x = inside.begin * window.stride_width - window.padding_width + tap_x;
        for (auto row = first_row; row < last_row; ++row) {
          const auto y = row % out_height * window.stride_height - window.padding_height + tap_y;
          if (y < 0 || y >= height) continue;
          multiply(read + ((row / out_height * height + y) * width + first_x) * w.inputs,
                   window.stride_width * w.inputs, weight + (block * w.taps + tap) * w.inputs * w.block, w,
                   inside.end - inside.begin, columns,
                   sums.data() + ((row - first_row) * out_width + inside.begin) * w.block, w.block, true);
        }
      }
      const auto offset = first_row * out_width * w.outputs + first_output;
      kernels<T>().add_bias(tile_of(sums, w.block, w, bias, first_output, (last_row - first_row) * out_width),
                            place_in<T>(added, offset), written + offset);
    }
    kernels<T>().end_products();
  });
}

}  // namespace

bool can_pack(const torch::Tensor& weight) {
  return weight.is_cpu() && (weight.dim() == 2 || weight.dim() == 4) && weight.numel() > 0 &&
         has_kernels(weight.scalar_type()) && (weight.scalar_type() == torch::kFloat || weight.size(1) % 2 == 0);
}

torch::Tensor pack_weight(const torch::Tensor& weight, bool upsamples) {
  const auto plain = upsamples ? fold_upsampling(weight) : weight.contiguous();
  return weight.scalar_type() == torch::kFloat ? pack<float>(plain) : pack<c10::BFloat16>(plain);
}

namespace {

/// `compute` puts a layer's result into `output`, and adds `added` on the way if it has the output's shape and layout.
template <typename Compute>
torch::Tensor with_added(const torch::Tensor& output, const std::optional<torch::Tensor>& added,
                         const Compute& compute) {
  const bool has = added && added->defined();
  const bool fits = has && added->sizes() == output.sizes() && added->strides() == output.strides() &&
                    added->scalar_type() == output.scalar_type() && added->is_cpu();
  if (output.numel() > 0) compute(fits ? *added : torch::Tensor());
  return !has || fits ? output : output + *added;
}

}  // namespace

torch::Tensor linear(const torch::Tensor& input, const torch::Tensor& packed, const std::optional<torch::Tensor>& bias,
                     std::int64_t out_features, const std::optional<torch::Tensor>& added) {
  check_input(input, packed, -1, "features");
  auto shape = input.sizes().vec();
  shape.back() = out_features;
  const auto output = torch::empty(shape, input.options().memory_format(torch::MemoryFormat::Contiguous));
  const auto compute = input.scalar_type() == torch::kFloat ? linear_rows<float> : linear_rows<c10::BFloat16>;
  return with_added(output, added, [&](const torch::Tensor& same) {
    compute(input.contiguous(), packed, Weight(packed, out_features), bias_of(bias, out_features), same, output);
  });
}

torch::Tensor convolution(const torch::Tensor& input, const torch::Tensor& packed,
                          const std::optional<torch::Tensor>& bias, std::int64_t out_channels,
                          torch::IntArrayRef kernel_size, torch::IntArrayRef stride, torch::IntArrayRef padding,
                          const std::optional<torch::Tensor>& added) {
  TORCH_CHECK(input.dim() == 4, "a convolution reads [B, C, H, W], got ", input.sizes());
  check_input(input, packed, 1, "channels");
  if (packed.size(1) == 1 && stride == torch::IntArrayRef{1, 1} && padding == torch::IntArrayRef{0, 0}) {
    const bool is_picture = added && added->defined() && added->dim() == 4;
    const auto pixels = linear(input.permute({0, 2, 3, 1}), packed, bias, out_channels,
                               is_picture ? std::optional(added->permute({0, 2, 3, 1})) : std::nullopt);
    const auto output = pixels.permute({0, 3, 1, 2});
    return !added || !added->defined() || is_picture ? output : output + *added;
  }
  const auto size = [&](std::size_t i) {
    return (input.size(static_cast<std::int64_t>(i) + 2) + 2 * padding[i] - kernel_size[i]) / stride[i] + 1;
  };
  TORCH_CHECK(input.size(2) + 2 * padding[0] >= kernel_size[0] && input.size(3) + 2 * padding[1] >= kernel_size[1],
              "a kernel of ", kernel_size, " is larger than its input, ", input.sizes());
  const auto output = torch::empty({input.size(0), out_channels, size(0), size(1)},
                                   input.options().memory_format(torch::MemoryFormat::ChannelsLast));
  const bool fewer = input.scalar_type() == torch::kFloat && kernel_size == torch::IntArrayRef{3, 3} &&
                     stride == torch::IntArrayRef{1, 1} && pays_as_winograd(input.size(1), output);
  const Window window{kernel_size[0], kernel_size[1], stride[0], stride[1], padding[0], padding[1]};
  const auto compute = input.scalar_type() == torch::kFloat ? convolve<float> : convolve<c10::BFloat16>;
  return with_added(output, added, [&](const torch::Tensor& same) {
    const auto pixels = input.contiguous(torch::MemoryFormat::ChannelsLast);
    const auto shift = bias_of(bias, out_channels);
    if (fewer)
      winograd_convolution(pixels, packed, padding, shift, same, output);
    else
      compute(pixels, packed, Weight(packed, out_channels), window, shift, same, output);
  });
}

torch::Tensor upsample_convolution(const torch::Tensor& input, const torch::Tensor& packed,
                                   const std::optional<torch::Tensor>& bias, std::int64_t out_channels,
                                   at::OptionalIntArrayRef size) {
  TORCH_CHECK(input.dim() == 4, "a convolution reads [B, C, H, W], got ", input.sizes());
  check_input(input, packed, 1, "channels");
  const std::array doubled{2 * input.size(2), 2 * input.size(3)};
  const auto to = size.value_or(torch::IntArrayRef(doubled));
  const auto doubles = [&](std::size_t i) { return to[i] == doubled[i] || to[i] == doubled[i] - 1; };
  if (!doubles(0) || !doubles(1))
    return convolution(at::upsample_nearest2d(input, to), unfold_upsampling(packed), bias, out_channels, {3, 3}, {1, 1},
                       {1, 1});
  const auto output = torch::empty({input.size(0), out_channels, to[0], to[1]},
                                   input.options().memory_format(torch::MemoryFormat::ChannelsLast));
  if (output.numel() > 0) convolve_upsampled(input, packed, bias_of(bias, out_channels), output);
  return output;
}

}  // namespace deepcache::cpu
