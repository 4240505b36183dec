#include "pipelines/step_range.hpp"

#include <algorithm>
#include <cmath>

#include "error.hpp"

namespace deepcache {
namespace {

/// How many timesteps are at a share of the noise process or before it, in time: those of low noise come last.
std::int64_t count_from(const Scheduler& scheduler, double share) {
  const auto total = static_cast<double>(scheduler.num_train_timesteps());
  const auto cutoff = std::nearbyint(total - share * total);
  return scheduler.timesteps().to(torch::kDouble).ge(cutoff).sum().item<std::int64_t>();
}

/// The call that a run of `strength` begins with.
std::int64_t begin_of_strength(const Scheduler& scheduler, std::int64_t num_inference_steps, double strength) {
  const auto steps = static_cast<double>(num_inference_steps);
  const auto kept = static_cast<std::int64_t>(steps * strength);
  const auto least = steps * (1 / steps) < 1 ? std::nextafter(1 / steps, 1.0) : 1 / steps;
  check_argument(kept >= 1, "strength {} leaves none of {} steps; the least is {}", strength, num_inference_steps,
                 least);
  return (num_inference_steps - std::min(kept, num_inference_steps)) * scheduler.order();
}

std::int64_t begin_of(const Scheduler& scheduler, const StableDiffusionParams& params) {
  if (params.denoising_start) {
    const auto begin = count_from(scheduler, *params.denoising_start);
    // Not in the middle of an inference step of two calls: the first one's timestep stands alone, all others twice.
    return scheduler.order() == 2 && begin % 2 == 1 ? begin - 1 : begin;
  }
  return params.image.defined() ? begin_of_strength(scheduler, params.num_inference_steps, *params.strength) : 0;
}

}  // namespace

StepRange set_timesteps(Scheduler& scheduler, const StableDiffusionParams& params) {
  scheduler.set_timesteps(params.num_inference_steps);
  const auto calls = scheduler.timesteps().size(0);
  const StepRange range{.begin = begin_of(scheduler, params),
                        .end = params.denoising_end ? count_from(scheduler, *params.denoising_end) : calls};
  check_argument(
      range.size() > 0, "none of {} steps lies between denoising_start {}{} and denoising_end {}",
      params.num_inference_steps, params.denoising_start.value_or(0),
      params.image.defined() && !params.denoising_start ? fmt::format(" (strength {})", *params.strength) : "",
      params.denoising_end.value_or(1));
  scheduler.check_begin(range.begin);
  return range;
}

}  // namespace deepcache
