#pragma once

#include <torch/types.h>

#include <cstdint>
#include <vector>

#include "deepcache/noise.hpp"
#include "deepcache/scheduler.hpp"
#include "models/autoencoder.hpp"
#include "pipelines/denoising_loop.hpp"
#include "pipelines/request.hpp"

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

/// Draws noise in the order of diffusers' pipelines (`prepare_latents`, `prepare_mask_latents`).
PreparedLatents prepare_latents(const LatentSources& sources);

}  // namespace deepcache
