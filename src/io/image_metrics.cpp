#include <ATen/ops/conv2d.h>

#include <cmath>
#include <limits>

#include "deepcache/image.hpp"
#include "error.hpp"

namespace deepcache {
namespace {

void check_equal_shapes(const torch::Tensor& actual, const torch::Tensor& expected) {
  check_argument(actual.sizes() == expected.sizes(), "images to compare must have one shape, got [{}] and [{}]",
                 fmt::join(actual.sizes(), ", "), fmt::join(expected.sizes(), ", "));
}

}  // namespace

double psnr(const torch::Tensor& actual, const torch::Tensor& expected) {
  check_equal_shapes(actual, expected);
  const auto error = (actual.to(torch::kDouble) - expected.to(torch::kDouble)).square().mean().item<double>();
  return error == 0 ? std::numeric_limits<double>::infinity() : -10 * std::log10(error);
}

double ssim(const torch::Tensor& actual, const torch::Tensor& expected) {
  constexpr std::int64_t kWindow = 11;
  constexpr double kSigma = 1.5;
  constexpr double kC1 = 0.01 * 0.01, kC2 = 0.03 * 0.03;
  check_equal_shapes(actual, expected);
  check_argument(actual.dim() >= 2 && actual.size(-1) >= kWindow && actual.size(-2) >= kWindow,
                 "SSIM needs images of {0}x{0} pixels or more, got [{1}]", kWindow, fmt::join(actual.sizes(), ", "));
  const auto offsets = torch::arange(kWindow, torch::kDouble) - kWindow / 2;
  auto weights = (-offsets.square() / (2 * kSigma * kSigma)).exp();
  weights = weights / weights.sum();
  const auto blur = [&](const torch::Tensor& planes) {
    return torch::conv2d(torch::conv2d(planes, weights.view({1, 1, 1, kWindow})), weights.view({1, 1, kWindow, 1}));
  };
  const auto planes = [&](const torch::Tensor& image) {
    return image.cpu().to(torch::kDouble).reshape({-1, 1, image.size(-2), image.size(-1)});
  };
  const auto x = planes(actual), y = planes(expected);
  const auto mean_x = blur(x), mean_y = blur(y);
  const auto variance_x = blur(x * x) - mean_x.square();
  const auto variance_y = blur(y * y) - mean_y.square();
  const auto covariance = blur(x * y) - mean_x * mean_y;
  // Equation 13 of the paper.
  const auto similarity = ((2 * mean_x * mean_y + kC1) * (2 * covariance + kC2)) /
                          ((mean_x.square() + mean_y.square() + kC1) * (variance_x + variance_y + kC2));
  return similarity.mean().item<double>();
}

}  // namespace deepcache
