#pragma once

#include <torch/types.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>

#include "deepcache/image.hpp"

namespace deepcache {

/// `psnr`, for means: equal pictures have 100 dB, and those that aren't finite 0.
inline double finite_psnr(const torch::Tensor& actual, const torch::Tensor& expected) {
  constexpr double kEqual = 100;
  const auto decibels = psnr(actual, expected);
  return std::isnan(decibels) ? 0 : std::min(kEqual, decibels);
}

/// `ssim`, or NaN for pictures that are smaller than its window.
inline double ssim_or_nan(const torch::Tensor& actual, const torch::Tensor& expected) {
  constexpr std::int64_t kWindow = 11;
  if (std::min(expected.size(-2), expected.size(-1)) < kWindow) return std::numeric_limits<double>::quiet_NaN();
  return ssim(actual, expected);
}

}  // namespace deepcache
