#include "pipelines/step_cost.hpp"

namespace deepcache {

double StepCost::speedup(std::int64_t full_steps) const {
  const auto all = static_cast<double>(num_steps), full = static_cast<double>(full_steps);
  return all / (full + (all - full) * cached_over_full);
}

StepCost measure_cost(StableDiffusionPipeline& pipe, Helper& helper, const std::string& prompt,
                      StableDiffusionParams params, std::int64_t cache_branch_id) {
  StepCost cost;
  helper.set_params({.cache_branch_id = cache_branch_id, .skip_mode = SkipMode::kList, .full_steps = {0}});
  params.decode = false;
  params.callback = [&](const PipelineStep& step) {
    cost.num_steps = step.num_steps;
    return step.step_index < 1;
  };
  pipe(prompt, params);
  const auto stats = helper.stats();
  if (stats.cached_steps > 0)
    cost.cached_over_full =
        static_cast<double>(stats.cached_step.total()) / static_cast<double>(stats.full_step.total());
  return cost;
}

}  // namespace deepcache
