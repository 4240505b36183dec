#pragma once

#include <torch/types.h>

#include <functional>
#include <map>
#include <string>

#include "deepcache/scheduler.hpp"
#include "deepcache/stable_diffusion.hpp"
#include "deepcache/unet.hpp"

namespace deepcache {

/// What the UNet is told besides sample and timestep, by the names of its inputs; under guidance, for both halves of
/// the batch, the unconditional one first.
using Conditions = std::map<std::string, torch::Tensor>;

struct DenoisingOptions {
  double guidance_scale = 1;    ///< classifier-free guidance (arXiv 2207.12598); 1 or below: none
  double guidance_rescale = 0;  ///< share of the guided noise whose spread is the conditional one's (arXiv 2305.08891)
  StepOptions step = {};
  std::function<bool(const PipelineStep&)> callback = {};  ///< after each step; returning false ends the run
};

struct Denoised {
  torch::Tensor latents;
  bool cancelled = false;
};

/// The loop of every pipeline: from noise to latents [B, C, h, w] over the scheduler's timesteps.
Denoised denoise(const UNet& unet, Scheduler& scheduler, torch::Tensor latents, const Conditions& conditions,
                 const DenoisingOptions& options);

}  // namespace deepcache
