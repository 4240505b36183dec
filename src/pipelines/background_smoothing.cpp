#include "pipelines/background_smoothing.hpp"

#include <ATen/Functions.h>

namespace deepcache {
namespace {

/// Masks of pixels as masks of latents, grown by two of them to each side, as the original's code base does
/// (Picsart-AI-Research/Text2Video-Zero).
torch::Tensor mask_latents(const torch::Tensor& mask, const torch::Tensor& latents) {
  const auto nearest = at::upsample_nearest2d(mask.to(latents.device(), torch::kFloat), latents.sizes().slice(2));
  return at::max_pool2d(nearest, /*kernel_size=*/5, /*stride=*/1, /*padding=*/2).to(latents.scalar_type());
}

/// The first frame as it is, then moved: [F, ...].
torch::Tensor follow(const torch::Tensor& first, const MotionField& field) {
  return torch::cat({first, warp(first, field)});
}

}  // namespace

torch::Tensor smooth_background(const torch::Tensor& latents, const torch::Tensor& foreground_mask,
                                const MotionField& field, double own_share) {
  const auto foreground = mask_latents(foreground_mask, latents);
  const auto first_foreground = foreground.slice(0, 0, 1);
  const auto moved = follow(latents.slice(0, 0, 1) * (1 - first_foreground), field);
  // Background in the frame, and where the first frame's background has moved to.
  const auto background = (1 - foreground) * (1 - follow(first_foreground, field));
  return (1 - background) * latents + background * (own_share * latents + (1 - own_share) * moved);
}

}  // namespace deepcache
