#pragma once

#include <torch/types.h>

#include <cstdint>
#include <functional>
#include <vector>

#include "deepcache/noise.hpp"
#include "deepcache/scheduler.hpp"
#include "models/autoencoder.hpp"
#include "pipelines/request.hpp"
#include "pipelines/step_range.hpp"

namespace deepcache {

/// What a run makes its first latents from.
struct LatentSources {
  const StableDiffusionParams& params;  ///< resolved
  const ModelTraits& traits;
  const Scheduler& scheduler;  ///< its timesteps are set
  const Autoencoder& vae;
  StepRange range;
  std::vector<std::int64_t> shape;  ///< of the latents, [B, C, h, w]
  torch::TensorOptions options;     ///< dtype and device of the latents
  NoiseGenerator& noise;
};

/// What the loop begins with.
struct PreparedLatents {
  torch::Tensor latents = {};  ///< [B, C, h, w], noised to what the first call expects
  torch::Tensor extra_channels =
      {};  ///< [B, 1 + C, h, w] of an inpainting UNet: the mask, and the latents of what is kept
  /// Of inpainting with any other UNet: the latents after a step, but for what is kept, which is noised to what call
  /// `next` expects.
  std::function<torch::Tensor(const torch::Tensor& latents, std::int64_t next)> keep_unmasked = {};
};

/// Draws noise in the order of diffusers' pipelines (`prepare_latents`, `prepare_mask_latents`).
PreparedLatents prepare_latents(const LatentSources& sources);

}  // namespace deepcache
