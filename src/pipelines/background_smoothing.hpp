#pragma once

#include <torch/types.h>

#include "pipelines/motion_field.hpp"

namespace deepcache {

/// Latents of all frames, [F, C, h, w], whose background is drawn towards the first frame's, moved (arXiv 2303.13439,
/// section 3.3.3).
/// @param foreground_mask  [F, 1, H, W] from 0 to 1, of the frames' pixels
/// @param field            of the frames after the first
/// @param own_share        of a frame's own latents in its background: 1 less the paper's alpha
torch::Tensor smooth_background(const torch::Tensor& latents, const torch::Tensor& foreground_mask,
                                const MotionField& field, double own_share);

}  // namespace deepcache
