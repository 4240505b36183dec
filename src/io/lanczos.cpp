#include "io/lanczos.hpp"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <vector>

namespace deepcache {
namespace {

constexpr double kLobes = 3;
constexpr int kFractionBits = 22;  // of weights: 32, less 8 of a pixel and 2 for sums that leave its range

double sinc(double x) {
  return x == 0 ? 1 : std::sin(std::numbers::pi * x) / (std::numbers::pi * x);
}

double lanczos(double x) {
  return x >= -kLobes && x < kLobes ? sinc(x) * sinc(x / kLobes) : 0;
}

/// The pixels that an output pixel is made of, and their weights in fixed point.
struct Window {
  std::int64_t first = 0;
  std::vector<std::int32_t> weights;
};

std::vector<Window> windows(std::int64_t from, std::int64_t to) {
  const double scale = static_cast<double>(from) / static_cast<double>(to);
  const double stretch = std::max(scale, 1.0);  // a smaller image takes more pixels for each of its own
  const double support = kLobes * stretch;
  std::vector<Window> result;
  for (std::int64_t i = 0; i < to; ++i) {
    const double center = (static_cast<double>(i) + 0.5) * scale;
    const auto first = std::max<std::int64_t>(0, static_cast<std::int64_t>(std::floor(center - support + 0.5)));
    const auto end = std::min(from, static_cast<std::int64_t>(std::floor(center + support + 0.5)));
    std::vector<double> weights;
    double sum = 0;
    for (auto x = first; x < end; ++x) {
      weights.push_back(lanczos((static_cast<double>(x) - center + 0.5) * (1 / stretch)));
      sum += weights.back();
    }
    Window window{.first = first, .weights = {}};
    for (const double weight : weights)
      window.weights.push_back(
          static_cast<std::int32_t>(std::round(weight / sum * static_cast<double>(1 << kFractionBits))));
    result.push_back(std::move(window));
  }
  return result;
}

/// Of the last dimension.
torch::Tensor resize_rows(const torch::Tensor& images, std::int64_t to) {
  const auto from = images.size(-1);
  if (from == to) return images;
  const auto input = images.contiguous();
  auto sizes = input.sizes().vec();
  sizes.back() = to;
  auto output = torch::empty(sizes, torch::kUInt8);
  const auto all_windows = windows(from, to);
  const auto* in = input.const_data_ptr<std::uint8_t>();
  auto* out = output.data_ptr<std::uint8_t>();
  for (std::int64_t row = 0; row < input.numel() / from; ++row, in += from)
    for (const auto& window : all_windows) {
      std::int32_t sum = 1 << (kFractionBits - 1);
      for (std::size_t i = 0; i < window.weights.size(); ++i)
        sum += window.weights[i] * in[static_cast<std::size_t>(window.first) + i];
      *out++ = static_cast<std::uint8_t>(std::clamp(sum >> kFractionBits, 0, 255));
    }
  return output;
}

}  // namespace

torch::Tensor resize_lanczos(const torch::Tensor& images, std::int64_t height, std::int64_t width) {
  const auto columns = [&](const torch::Tensor& pixels) {
    return resize_rows(pixels.transpose(-1, -2), height).transpose(-1, -2);
  };
  // What comes first rounds first. Since version 13, Pillow begins with the height where it shrinks much more.
  const auto shrunk = images.size(-2) - height;
  const bool height_first = shrunk > 0 && shrunk > 2 * (images.size(-1) - width);
  const auto resized = height_first ? resize_rows(columns(images), width) : columns(resize_rows(images, width));
  return resized.contiguous();
}

}  // namespace deepcache
