#pragma once

#include <cstdint>
#include <string>

#include "deepcache/helper.hpp"
#include "deepcache/stable_diffusion.hpp"

namespace deepcache {

/// What steps of a run cost.
struct StepCost {
  std::int64_t num_steps = 0;   ///< calls of the UNet in the run
  double cached_over_full = 1;  ///< of a cached step and a full one, by multiply-accumulates

  /// Of a run with so many full steps, over one without caching.
  double speedup(std::int64_t full_steps) const;
};

/// Runs two steps, the first full and the second cached. `helper`, which must be enabled on the pipeline, is left with
/// parameters that do so.
StepCost measure_cost(StableDiffusionPipeline& pipe, Helper& helper, const std::string& prompt,
                      StableDiffusionParams params, std::int64_t cache_branch_id);

}  // namespace deepcache
