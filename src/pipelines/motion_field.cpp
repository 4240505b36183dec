#include "pipelines/motion_field.hpp"

#include <ATen/Functions.h>

namespace deepcache {
namespace {

constexpr std::int64_t kFieldSize = 512;

/// Where each place of a [height, width] picture is looked up, [1, height, width, 2], in grid_sample's coordinates: x,
/// then y, from -1 to 1. After diffusers' `warp_single_latent`, whose results depend on each rounding: of the nearest
/// place many are halfway between two.
torch::Tensor sampling_grid(std::int64_t height, std::int64_t width, double flow_x, double flow_y,
                            const torch::TensorOptions& options) {
  const auto positions = torch::arange(kFieldSize, options);
  const auto x = (positions + flow_x).expand({kFieldSize, kFieldSize});
  const auto y = (positions + flow_y).unsqueeze(1).expand({kFieldSize, kFieldSize});
  const auto normalized = torch::stack({x, y}).unsqueeze(0) / kFieldSize * 2.0 - 1.0;
  return at::upsample_bilinear2d(normalized, {height, width}, /*align_corners=*/false).permute({0, 2, 3, 1});
}

}  // namespace

torch::Tensor warp(const torch::Tensor& picture, const MotionField& field) {
  constexpr std::int64_t kNearest = 1, kReflection = 2;
  // A half type couldn't tell neighbouring positions apart; copying nearest values loses nothing.
  const auto values = picture.to(torch::kFloat);
  std::vector<torch::Tensor> frames{picture.slice(0, 0, 0)};
  for (const auto id : field.frame_ids) {
    const auto moves = static_cast<double>(id);
    const auto grid = sampling_grid(picture.size(2), picture.size(3), field.strength_x * moves,
                                    field.strength_y * moves, values.options());
    frames.push_back(at::grid_sampler_2d(values, grid, kNearest, kReflection, /*align_corners=*/false).to(picture));
  }
  return torch::cat(frames);
}

}  // namespace deepcache
