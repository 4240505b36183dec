#include "pipelines/text_to_video_zero_request.hpp"

#include <cmath>
#include <numeric>
#include <utility>

#include "error.hpp"
#include "pipelines/checks.hpp"

namespace deepcache {
namespace {

void check_motion(const TextToVideoZeroParams& params) {
  check_argument(std::isfinite(params.motion_field_strength_x) && std::isfinite(params.motion_field_strength_y),
                 "motion_field_strength_x and _y must be finite numbers, got {} and {}", params.motion_field_strength_x,
                 params.motion_field_strength_y);
  check_argument(std::cmp_equal(params.frame_ids.size(), params.video_length),
                 "there must be one frame id for each of the {} frames, got {}", params.video_length,
                 params.frame_ids.size());
}

void check_times(const TextToVideoZeroParams& params, std::int64_t num_timesteps) {
  check_argument(0 <= params.t0 && params.t0 < params.t1 && params.t1 < num_timesteps,
                 "t0 must be 0 or above, and below t1, which must be below the run's {} timesteps; got t0 {} and t1 {}",
                 num_timesteps, params.t0, params.t1);
}

void check_mask(const TextToVideoZeroParams& params) {
  check_argument(params.smooth_bg_strength >= 0 && params.smooth_bg_strength <= 1,
                 "smooth_bg_strength must be 0 to 1, got {}", params.smooth_bg_strength);
  const auto& mask = params.foreground_mask;
  if (!mask.defined()) return;
  const std::vector<std::int64_t> sizes{params.video_length, 1, params.height, params.width};
  check_argument(mask.sizes() == sizes && mask.is_floating_point(),
                 "foreground_mask must hold floating-point values of shape [{}], got {}", fmt::join(sizes, ", "),
                 describe(mask));
  const auto least = mask.min().item<double>(), most = mask.max().item<double>();
  check_argument(least >= 0 && most <= 1, "foreground_mask must hold values from 0 to 1, got {} to {}", least, most);
}

}  // namespace

StableDiffusionParams first_frame(const TextToVideoZeroParams& params, const ModelTraits& traits) {
  return resolve(StableDiffusionParams{.negative_prompt = params.negative_prompt,
                                       .num_inference_steps = params.num_inference_steps,
                                       .guidance_scale = params.guidance_scale,
                                       .clip_skip = params.clip_skip,
                                       .height = params.height,
                                       .width = params.width,
                                       .seeds = params.seeds,
                                       .eta = params.eta,
                                       .latents = params.latents,
                                       .prompt_weighting = params.prompt_weighting,
                                       .max_prompt_chunks = params.max_prompt_chunks},
                 traits);
}

TextToVideoZeroParams resolve(TextToVideoZeroParams params, const ModelTraits& traits) {
  const auto first = first_frame(params, traits);
  params.height = first.height;
  params.width = first.width;
  if (params.frame_ids.empty() && params.video_length > 0) {
    params.frame_ids.resize(static_cast<std::size_t>(params.video_length));
    std::iota(params.frame_ids.begin(), params.frame_ids.end(), 0);
  }
  return params;
}

MotionField motion_field(const TextToVideoZeroParams& params) {
  return {.strength_x = params.motion_field_strength_x,
          .strength_y = params.motion_field_strength_y,
          .frame_ids = {params.frame_ids.begin() + 1, params.frame_ids.end()}};
}

VideoParts parts_of(const TextToVideoZeroParams& params, std::int64_t num_timesteps) {
  const auto at_t1 = num_timesteps - params.t1 - 1;
  const auto at_t0 = num_timesteps - params.t0 - 1;
  return {.first_to_t1 = {0, at_t1}, .first_to_t0 = {at_t1, at_t0}, .all_from_t1 = {at_t1, num_timesteps}};
}

void check_video_request(const std::string& prompt, const TextToVideoZeroParams& params, const ModelTraits& traits,
                         const Scheduler& scheduler) {
  check_argument(params.video_length >= 1, "video_length must be 1 or above, got {}", params.video_length);
  check_request({prompt}, first_frame(params, traits), traits);
  check_eta(params.eta, scheduler);
  check_motion(params);
  check_times(params, scheduler.timesteps().size(0));
  check_mask(params);
}

}  // namespace deepcache
