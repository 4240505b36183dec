#pragma once

#include <torch/types.h>

#include "io/config_reader.hpp"

namespace deepcache {

/// What keeps the predicted x_0 in the range of images.
struct SampleClipping {
  bool clip_sample = false;
  double clip_sample_range = 1.0;
  bool thresholding = false;  ///< instead of `clip_sample` if both are set
  double dynamic_thresholding_ratio = 0.995;
  double sample_max_value = 1.0;
};

/// @throws std::runtime_error for a value that isn't supported.
SampleClipping read_sample_clipping(const ConfigReader& config, const SampleClipping& defaults);

/// `pred_original_sample`, [B, ...], thresholded, clipped or as it is.
torch::Tensor clip_sample(const torch::Tensor& pred_original_sample, const SampleClipping& clipping);

}  // namespace deepcache
