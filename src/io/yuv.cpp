#include "io/yuv.hpp"

#include <ATen/ops/cat.h>
#include <ATen/ops/replication_pad2d.h>

namespace deepcache {
namespace {

torch::Tensor to_bytes(const torch::Tensor& values) {
  return values.round().to(torch::kUInt8).contiguous();
}

/// [H, W] at the places of 4:2:0's chroma, [H/2, W/2]: weights 1, 2, 1 across and 1, 1 down.
torch::Tensor subsample(const torch::Tensor& chroma) {
  const auto width = chroma.size(1);
  const auto here = chroma.slice(1, 0, width, 2), right = chroma.slice(1, 1, width, 2);
  const auto left = at::cat({chroma.slice(1, 0, 1), right.slice(1, 0, -1)}, 1);
  const auto across = (left + 2 * here + right) / 4;
  const auto height = across.size(0);
  return (across.slice(0, 0, height, 2) + across.slice(0, 1, height, 2)) / 2;
}

}  // namespace

YuvPlanes to_yuv(const torch::Tensor& image) {
  constexpr double kRed = 0.2126, kBlue = 0.0722;  // BT.709-6, item 3.2
  const auto values = image.detach().cpu().to(torch::kFloat).clamp(0, 1).unsqueeze(0);
  const auto padded = at::replication_pad2d(values, {0, image.size(2) % 2, 0, image.size(1) % 2})[0];
  const auto red = padded[0], green = padded[1], blue = padded[2];
  const auto y = kRed * red + (1 - kRed - kBlue) * green + kBlue * blue;
  const auto cb = (blue - y) / (2 * (1 - kBlue)), cr = (red - y) / (2 * (1 - kRed));  // -0.5 to 0.5
  return {to_bytes(16 + 219 * y), to_bytes(128 + 224 * subsample(cb)), to_bytes(128 + 224 * subsample(cr))};
}

}  // namespace deepcache
