#pragma once

#include "deepcache/scheduler.hpp"
#include "deepcache/stable_diffusion.hpp"
#include "pipelines/denoising_loop.hpp"

namespace deepcache {

/// Sets the scheduler's timesteps, and says which of them resolved parameters ask for: after diffusers' `get_timesteps`
/// (pipeline_stable_diffusion_xl_img2img.py).
/// @throws std::invalid_argument if the scheduler can't make so many steps, or if none is left to run.
StepRange set_timesteps(Scheduler& scheduler, const StableDiffusionParams& params);

}  // namespace deepcache
