#pragma once

#include <torch/types.h>

#include <functional>

#include "deepcache/scheduler.hpp"
#include "deepcache/stable_diffusion.hpp"
#include "deepcache/unet.hpp"
#include "pipelines/conditions.hpp"
#include "pipelines/prepare_latents.hpp"
#include "pipelines/step_range.hpp"

namespace deepcache {

struct DenoisingOptions {
  double guidance_scale = 1;    ///< classifier-free guidance (arXiv 2207.12598); 1 or below: none
  double guidance_rescale = 0;  ///< share of the guided noise whose spread is the conditional one's (arXiv 2305.08891)
  Schedules schedules = {};
  StepOptions step = {};
  std::function<bool(const PipelineStep&)> callback = {};  ///< after each step; returning false ends the run
};

struct Denoised {
  torch::Tensor latents;
  bool cancelled = false;
};

/// The loop of every pipeline: over a range of the scheduler's timesteps, from noise to latents [B, C, h, w].
Denoised denoise(const UNet& unet, Scheduler& scheduler, const StepRange& range, const PreparedLatents& prepared,
                 const Conditions& conditions, const DenoisingOptions& options);

}  // namespace deepcache
