#include <algorithm>
#include <cmath>
#include <vector>

#include "cpu/kernels.hpp"
#include "cpu/operators.hpp"
#include "cpu/parallel.hpp"

namespace deepcache::cpu {
namespace {

/// The pixels of a picture in parts of equal size: so many whatever the number of threads, so that sums don't depend on
/// it.
struct Parts {
  explicit Parts(std::int64_t number) : pixels(number), size((pixels + 15) / 16), count((pixels + size - 1) / size) {}
  std::int64_t begin(std::int64_t part) const { return part * size; }
  std::int64_t pixels_of(std::int64_t part) const { return std::min(size, pixels - begin(part)); }
  std::int64_t pixels, size, count;
};

struct Shape {
  std::int64_t batch, channels, num_groups;
  Parts parts;
};

/// What each channel is multiplied with, and what is added then: [B, 2, C].
std::vector<float> affine_of(const Shape& shape, const std::vector<float>& moments, const torch::Tensor& weight,
                             const torch::Tensor& bias, double eps) {
  const auto channels = shape.channels, width = channels / shape.num_groups;
  const auto count = static_cast<double>(width * shape.parts.pixels);
  std::vector<float> affine(static_cast<std::size_t>(shape.batch * 2 * channels));
  for (std::int64_t group = 0; group < shape.batch * shape.num_groups; ++group) {
    const auto picture = group / shape.num_groups, first = group % shape.num_groups * width;
    double sum = 0, squares = 0;
    for (std::int64_t part = 0; part < shape.parts.count; ++part) {
      const auto* of_part = moments.data() + (picture * shape.parts.count + part) * 2 * channels + first;
      for (std::int64_t c = 0; c < width; ++c) {
        sum += of_part[c];
        squares += of_part[channels + c];
      }
    }
    const auto mean = sum / count;
    const auto deviation = std::sqrt(std::max(squares / count - mean * mean, 0.0) + eps);
    auto* scale = affine.data() + picture * 2 * channels + first;
    for (std::int64_t c = 0; c < width; ++c) {
      const auto factor = (weight.defined() ? weight.const_data_ptr<float>()[first + c] : 1) / deviation;
      scale[c] = static_cast<float>(factor);
      scale[channels + c] =
          static_cast<float>((bias.defined() ? bias.const_data_ptr<float>()[first + c] : 0) - mean * factor);
    }
  }
  return affine;
}

template <typename T>
torch::Tensor group_norm_of(const torch::Tensor& input, const Shape& shape, const torch::Tensor& weight,
                            const torch::Tensor& bias, double eps, bool silu) {
  const auto channels = shape.channels;
  const auto& parts = shape.parts;
  const auto* read = input.const_data_ptr<T>();
  const auto offset = [&](std::int64_t task) {
    return (task / parts.count * parts.pixels + parts.begin(task % parts.count)) * channels;
  };
  std::vector<float> moments(static_cast<std::size_t>(shape.batch * parts.count * 2 * channels));
  parallel_for(shape.batch * parts.count, [&](std::int64_t begin, std::int64_t end) {
    for (auto task = begin; task < end; ++task) {
      auto* sums = moments.data() + task * 2 * channels;
      add_moments(read + offset(task), parts.pixels_of(task % parts.count), channels, sums, sums + channels);
    }
  });
  const auto affine = affine_of(shape, moments, weight, bias, eps);
  auto output = torch::empty_like(input);
  auto* written = output.mutable_data_ptr<T>();
  parallel_for(shape.batch * parts.count, [&](std::int64_t begin, std::int64_t end) {
    for (auto task = begin; task < end; ++task) {
      const auto* scale = affine.data() + task / parts.count * 2 * channels;
      apply({.scale = scale, .shift = scale + channels, .silu = silu}, read + offset(task),
            parts.pixels_of(task % parts.count), channels, written + offset(task));
    }
  });
  return output;
}

}  // namespace

torch::Tensor group_norm(const torch::Tensor& input, std::int64_t num_groups,
                         const std::optional<torch::Tensor>& weight, const std::optional<torch::Tensor>& bias,
                         double eps, bool silu) {
  if (!input.is_cpu() || input.dim() != 4 || !input.is_contiguous(torch::MemoryFormat::ChannelsLast) ||
      input.numel() == 0 || num_groups < 1 || input.size(1) % num_groups != 0 || !has_kernels(input.scalar_type())) {
    const auto output = at::group_norm(input, num_groups, weight, bias, eps);
    return silu ? at::silu(output) : output;
  }
  const auto floats = [](const std::optional<torch::Tensor>& tensor) {
    return tensor && tensor->defined() ? tensor->to(torch::kFloat).contiguous() : torch::Tensor();
  };
  const Shape shape{input.size(0), input.size(1), num_groups, Parts(input.size(2) * input.size(3))};
  const auto compute = input.scalar_type() == torch::kFloat ? group_norm_of<float> : group_norm_of<c10::BFloat16>;
  return compute(input, shape, floats(weight), floats(bias), eps, silu);
}

}  // namespace deepcache::cpu
