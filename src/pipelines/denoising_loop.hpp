#pragma once

#include <torch/types.h>

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "deepcache/pipeline.hpp"
#include "deepcache/scheduler.hpp"
#include "deepcache/unet.hpp"

namespace deepcache {

/// Which of a scheduler's calls a run makes: from `begin`, without `end`.
struct StepRange {
  std::int64_t begin = 0;
  std::int64_t end = 0;
  std::int64_t size() const { return end - begin; }
};

/// What the loop begins with. Channels are the third dimension from the end: [B, C, h, w], or [B, F, C, h, w].
struct PreparedLatents {
  torch::Tensor latents = {};         ///< noised to what the first call expects
  torch::Tensor extra_channels = {};  ///< what the UNet reads behind the latents' channels: of inpainting, the mask and
                                      ///< the latents of what is kept
  torch::Tensor unconditional_extra_channels = {};  ///< under guidance, of that half; undefined: the same
  /// Of inpainting with any other UNet: the latents after a step, but for what is kept, which is noised to what call
  /// `next` expects.
  std::function<torch::Tensor(const torch::Tensor& latents, std::int64_t next)> keep_unmasked = {};
};

/// What the UNet is told besides sample and timestep, by the names of its inputs; under guidance, for both halves of
/// the batch, the unconditional one first.
using Conditions = std::map<std::string, torch::Tensor>;

/// Numbers among the UNet's inputs, one for each call of a run.
using Schedules = std::map<std::string, std::vector<double>>;

struct DenoisingOptions {
  /// Of classifier-free guidance (arXiv 2207.12598): a number, or what can be multiplied with the latents, such as one
  /// for each frame, [1, F, 1, 1, 1]. Undefined: no guidance, and no unconditional half.
  torch::Tensor guidance_scale = {};
  double guidance_rescale = 0;  ///< share of the guided noise whose spread is the conditional one's (arXiv 2305.08891)
  Schedules schedules = {};
  StepOptions step = {};
  StepCallback callback = {};
  bool continues = false;  ///< a further part of the run before (`UNet::begin_run`)
};

struct Denoised {
  torch::Tensor latents;
  bool cancelled = false;
};

/// The loop of every pipeline: over a range of the scheduler's timesteps, from noise to latents. Begins a run of the
/// helper that is enabled on the UNet.
Denoised denoise(const UNet& unet, Scheduler& scheduler, const StepRange& range, const PreparedLatents& prepared,
                 const Conditions& conditions, const DenoisingOptions& options);

}  // namespace deepcache
