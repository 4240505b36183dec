#pragma once

#include <cstdint>

#include "deepcache/scheduler.hpp"
#include "deepcache/stable_diffusion.hpp"

namespace deepcache {

/// Which of a scheduler's calls a run makes: from `begin`, without `end`.
struct StepRange {
  std::int64_t begin = 0;
  std::int64_t end = 0;
  std::int64_t size() const { return end - begin; }
};

/// Sets the scheduler's timesteps, and says which of them resolved parameters ask for: after diffusers' `get_timesteps`
/// (pipeline_stable_diffusion_xl_img2img.py).
/// @throws std::invalid_argument if the scheduler can't make so many steps, or if none is left to run.
StepRange set_timesteps(Scheduler& scheduler, const StableDiffusionParams& params);

}  // namespace deepcache
