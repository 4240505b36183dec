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

/// Sums of each part of each picture, [B, parts, 2, C], about the first pixel of the picture.
template <typename T>
std::vector<float> moments_of(const Shape& shape, const T* input) {
  const auto& [batch, channels, num_groups, parts] = shape;
  std::vector<float> moments(static_cast<std::size_t>(batch * parts.count * 2 * channels));
  parallel_for(batch * parts.count, [&](std::int64_t begin, std::int64_t end) {
    for (auto task = begin; task < end; ++task) {
      const auto* picture = input + task / parts.count * parts.pixels * channels;
      const auto part = task % parts.count;
      auto* sums = moments.data() + task * 2 * channels;
      kernels<T>().add_moments(picture + parts.begin(part) * channels, picture, parts.pixels_of(part), channels,
                               {.sums = sums, .squares = sums + channels});
    }
  });
  return moments;
}

struct Moment {
  double mean = 0, square = 0;
};

/// Mean, and mean of the squares about `pivot`, of one channel.
Moment about(double pivot, const Shape& shape, const float* moments, std::int64_t channel, double pixel) {
  double sum = 0, squares = 0;
  for (std::int64_t part = 0; part < shape.parts.count; ++part) {
    sum += moments[part * 2 * shape.channels + channel];
    squares += moments[(part * 2 + 1) * shape.channels + channel];
  }
  const auto count = static_cast<double>(shape.parts.pixels), shift = pixel - pivot;
  return {.mean = pixel + sum / count, .square = squares / count + 2 * shift * sum / count + shift * shift};
}

/// What each channel is multiplied with, and what is added then: [B, 2, C].
template <typename T>
std::vector<float> affine_of(const Shape& shape, const T* input, const torch::Tensor& weight, const torch::Tensor& bias,
                             double eps) {
  const auto channels = shape.channels, width = channels / shape.num_groups;
  const auto moments = moments_of(shape, input);
  std::vector<float> affine(static_cast<std::size_t>(shape.batch * 2 * channels));
  for (std::int64_t group = 0; group < shape.batch * shape.num_groups; ++group) {
    const auto picture = group / shape.num_groups, first = group % shape.num_groups * width;
    const auto* pixel = input + picture * shape.parts.pixels * channels;
    const auto pivot = static_cast<double>(pixel[first]);
    Moment all;
    for (auto c = first; c < first + width; ++c) {
      const auto channel = about(pivot, shape, moments.data() + picture * shape.parts.count * 2 * channels, c,
                                 static_cast<double>(pixel[c]));
      all.mean += channel.mean / static_cast<double>(width);
      all.square += channel.square / static_cast<double>(width);
    }
    const auto distance = all.mean - pivot;
    const auto deviation = std::sqrt(std::max(all.square - distance * distance, 0.0) + eps);
    auto* scale = affine.data() + picture * 2 * channels;
    for (auto c = first; c < first + width; ++c) {
      const auto factor = (weight.defined() ? weight.const_data_ptr<float>()[c] : 1) / deviation;
      scale[c] = static_cast<float>(factor);
      scale[channels + c] =
          static_cast<float>((bias.defined() ? bias.const_data_ptr<float>()[c] : 0) - all.mean * factor);
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
  const auto affine = affine_of(shape, read, weight, bias, eps);
  auto output = torch::empty_like(input);
  auto* written = output.mutable_data_ptr<T>();
  parallel_for(shape.batch * parts.count, [&](std::int64_t begin, std::int64_t end) {
    for (auto task = begin; task < end; ++task) {
      const auto part = task % parts.count;
      const auto offset = (task / parts.count * parts.pixels + parts.begin(part)) * channels;
      const auto* scale = affine.data() + task / parts.count * 2 * channels;
      kernels<T>().apply({.scale = scale, .shift = scale + channels, .silu = silu}, read + offset,
                         parts.pixels_of(part), channels, written + offset);
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
