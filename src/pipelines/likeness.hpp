#pragma once

#include <torch/types.h>

#include <algorithm>
#include <cstdint>
#include <limits>

#include "deepcache/image.hpp"

namespace deepcache {

/// `psnr`, for means: equal pictures have 100 dB.
inline double finite_psnr(const torch::Tensor& actual, const torch::Tensor& expected) {
  constexpr double kEqual = 100;
  return std::min(kEqual, psnr(actual, expected));
}

/// `ssim`, or NaN for pictures that are smaller than its window.
inline double ssim_or_nan(const torch::Tensor& actual, const torch::Tensor& expected) {
  constexpr std::int64_t kWindow = 11;
  if (std::min(expected.size(-2), expected.size(-1)) < kWindow) return std::numeric_limits<double>::quiet_NaN();
  return ssim(actual, expected);
}

}  // namespace deepcache
