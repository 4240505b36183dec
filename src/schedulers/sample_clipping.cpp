#include "schedulers/sample_clipping.hpp"

#include <limits>

namespace deepcache {
namespace {

/// Dynamic thresholding (Imagen, arXiv 2205.11487, section 2.3): s is a quantile of an image's absolute values, but at
/// least 1; the image is clipped to [-s, s] and divided by s.
torch::Tensor threshold_sample(const torch::Tensor& sample, const SampleClipping& clipping) {
  auto pixels = sample.reshape({sample.size(0), -1});
  if (pixels.scalar_type() != torch::kFloat64) pixels = pixels.to(torch::kFloat32);  // quantiles need it
  const auto quantile = torch::quantile(pixels.abs(), clipping.dynamic_thresholding_ratio, 1);
  const auto s = quantile.clamp(1, clipping.sample_max_value).unsqueeze(1);
  return (torch::clamp(pixels, -s, s) / s).reshape(sample.sizes()).to(sample.scalar_type());
}

}  // namespace

SampleClipping read_sample_clipping(const ConfigReader& config, const SampleClipping& defaults) {
  constexpr double kMost = std::numeric_limits<double>::max();
  constexpr double kLeastDivisor = 1e-6;
  SampleClipping clipping;
  clipping.clip_sample = config.boolean("clip_sample", defaults.clip_sample);
  clipping.clip_sample_range = config.number("clip_sample_range", defaults.clip_sample_range, 0.0, kMost);
  clipping.thresholding = config.boolean("thresholding", defaults.thresholding);
  clipping.dynamic_thresholding_ratio =
      config.number("dynamic_thresholding_ratio", defaults.dynamic_thresholding_ratio, 0.0, 1.0);
  clipping.sample_max_value = config.number("sample_max_value", defaults.sample_max_value, kLeastDivisor, kMost);
  return clipping;
}

torch::Tensor clip_sample(const torch::Tensor& pred_original_sample, const SampleClipping& clipping) {
  if (clipping.thresholding) return threshold_sample(pred_original_sample, clipping);
  if (clipping.clip_sample) return pred_original_sample.clamp(-clipping.clip_sample_range, clipping.clip_sample_range);
  return pred_original_sample;
}

}  // namespace deepcache
