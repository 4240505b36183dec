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

/// The noise that a run begins with, of unit variance: what is given, or else what is drawn.
torch::Tensor initial_noise(const torch::Tensor& given, const std::vector<std::int64_t>& shape,
                            const torch::TensorOptions& options, NoiseGenerator& noise);

/// Pictures of latents [B, C, h, w] that the app gives. @throws std::invalid_argument if they aren't such.
torch::Tensor decode_latents(const Autoencoder& vae, const torch::Tensor& latents, const VaeOptions& options);

/// One picture becomes a batch of one.
torch::Tensor as_batch(const torch::Tensor& pictures);

}  // namespace deepcache
