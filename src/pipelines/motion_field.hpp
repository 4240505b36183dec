#pragma once

#include <torch/types.h>

#include <cstdint>
#include <vector>

namespace deepcache {

/// A motion that is the same everywhere (arXiv 2303.13439, section 3.3.1), in pixels of a picture of 512x512.
struct MotionField {
  double strength_x;  ///< from one frame to the next
  double strength_y;
  std::vector<std::int64_t> frame_ids;  ///< how often each frame has moved
};

/// The picture, [1, C, h, w], as each frame has it after its motion: [frame_ids, C, h, w]. Values come from the nearest
/// place, reflected at the borders.
torch::Tensor warp(const torch::Tensor& picture, const MotionField& field);

}  // namespace deepcache
