#include "models/image_encoder.hpp"

#include <ATen/Functions.h>

#include <algorithm>
#include <array>
#include <string_view>

#include "error.hpp"

namespace deepcache {
namespace {

constexpr std::int64_t kImageSize = 224;  // diffusers' pipeline has no other

/// A setting with one number for each colour, [3, 1, 1].
torch::Tensor read_colors(const ConfigReader& config, std::string_view key, double min) {
  config.require(key);
  const auto values = config.numbers(key, min, 1e6);
  check_data(values.size() == 3, "{} must have 3 entries, got {}", key, values.size());
  return torch::tensor(values, torch::kFloat).view({3, 1, 1});
}

torch::Tensor read_colors(const ModelPackage& package, std::string_view key, double min) {
  return package.read("feature_extractor/preprocessor_config.json",
                      [&](const ConfigReader& config) { return read_colors(config, key, min); });
}

void check_size(const ModelPackage& package) {
  package.read("image_encoder/config.json", [](const ConfigReader& config) {
    const auto size = config.integer("image_size", kImageSize, 1, 1000000);
    check_data(size == kImageSize, "image_size must be {}, which the pipeline resizes to, got {}", kImageSize, size);
    return size;
  });
}

/// A line's weights [size], float32, that sum to 1.
torch::Tensor gaussian(std::int64_t size, double sigma) {
  const auto spread = torch::full({1}, sigma, torch::kFloat);
  const auto x = torch::arange(size, torch::kFloat) - size / 2;
  const auto weights = torch::exp(-x.pow(2.0) / (2 * spread.pow(2.0)));
  return weights / weights.sum(-1, true);
}

/// What a side that becomes `factor` times shorter is smoothed with.
torch::Tensor smoothing(double factor) {
  const double sigma = std::max((factor - 1.0) / 2.0, 0.001);
  const auto size = static_cast<std::int64_t>(std::max(2.0 * 2 * sigma, 3.0));
  return gaussian(size % 2 == 0 ? size + 1 : size, sigma);
}

/// Each channel convolved with a kernel [h, w] of odd sides, reflected at the edges.
torch::Tensor filter(const torch::Tensor& images, const torch::Tensor& kernel) {
  const auto channels = images.size(1);
  const auto y = kernel.size(0) / 2, x = kernel.size(1) / 2;
  constexpr std::array<std::int64_t, 2> stride{1, 1}, padding{0, 0}, dilation{1, 1};
  return at::conv2d(at::reflection_pad2d(images, {x, x, y, y}),
                    kernel.expand({channels, 1, kernel.size(0), kernel.size(1)}), {}, stride, padding, dilation,
                    channels);
}

}  // namespace

torch::Tensor resize_with_antialiasing(const torch::Tensor& images, std::int64_t height, std::int64_t width) {
  const auto factor = [&](std::int64_t dim, std::int64_t to) {
    return static_cast<double>(images.size(dim)) / static_cast<double>(to);
  };
  const auto smooth_x = filter(images, smoothing(factor(3, width)).unsqueeze(0));
  const auto smooth = filter(smooth_x, smoothing(factor(2, height)).unsqueeze(1));
  return at::upsample_bicubic2d(smooth, {height, width}, /*align_corners=*/true);
}

ImageEncoder::ImageEncoder(const ModelPackage& package, torch::Device device)
    : device_(device),
      dtype_(package.dtype()),
      mean_(read_colors(package, "image_mean", -1e6)),
      deviation_(read_colors(package, "image_std", 1e-6)),
      network_(package.network("image_encoder/model.pt"), device) {
  check_size(package);
}

torch::Tensor ImageEncoder::encode(const torch::Tensor& images) const {
  // Between -1 and 1 while they are resized, as in Python: the same last bits.
  const auto signed_images = images.to(torch::kCPU, torch::kFloat) * 2.0 - 1.0;
  const auto resized = (resize_with_antialiasing(signed_images, kImageSize, kImageSize) + 1.0) / 2.0;
  return network_(((resized - mean_) / deviation_).to(device_, dtype_)).unsqueeze(1);
}

}  // namespace deepcache
