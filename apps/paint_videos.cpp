#include <deepcache/image.hpp>
#include <deepcache/stable_video_diffusion.hpp>
#include <deepcache/text_to_video_zero.hpp>

#include <filesystem>
#include <stdexcept>

#include "generate_flags.hpp"

namespace deepcache::apps {
namespace {

StableVideoDiffusionParams image_to_video_params(const GenerateFlags& o) {
  StableVideoDiffusionParams params{.seeds = o.request.params.seeds, .latents = o.request.params.latents};
  o.take("--steps", o.request.params.num_inference_steps, params.num_inference_steps);
  o.take("--width", o.request.params.width, params.width);
  o.take("--height", o.request.params.height, params.height);
  o.take("--batch-size", o.request.params.num_images_per_prompt, params.num_videos_per_prompt);
  o.take("--num-frames", o.num_frames, params.num_frames);
  o.take("--fps", o.fps, params.fps);
  o.take("--motion-bucket-id", o.motion_bucket_id, params.motion_bucket_id);
  o.take("--noise-aug-strength", o.noise_aug_strength, params.noise_aug_strength);
  o.take("--decode-chunk-size", o.decode_chunk_size, params.decode_chunk_size);
  o.take("--min-guidance-scale", o.min_guidance_scale, params.min_guidance_scale);
  o.take("--max-guidance-scale", o.max_guidance_scale, params.max_guidance_scale);
  return params;
}

TextToVideoZeroParams text_to_video_params(const GenerateFlags& o) {
  TextToVideoZeroParams params{.negative_prompt = o.request.params.negative_prompt,
                               .clip_skip = o.request.params.clip_skip,
                               .seeds = o.request.params.seeds,
                               .latents = o.request.params.latents,
                               .prompt_weighting = o.request.params.prompt_weighting,
                               .max_prompt_chunks = o.request.params.max_prompt_chunks,
                               .vae = o.request.params.vae};
  o.take("--steps", o.request.params.num_inference_steps, params.num_inference_steps);
  o.take("--width", o.request.params.width, params.width);
  o.take("--height", o.request.params.height, params.height);
  o.take("--eta", o.request.params.eta, params.eta);
  o.take("--num-frames", o.num_frames, params.video_length);
  o.take("--motion-field-strength-x", o.motion_field_strength_x, params.motion_field_strength_x);
  o.take("--motion-field-strength-y", o.motion_field_strength_y, params.motion_field_strength_y);
  o.take("--t0", o.t0, params.t0);
  o.take("--t1", o.t1, params.t1);
  if (o.request.params.guidance_scale) params.guidance_scale = *o.request.params.guidance_scale;
  return params;
}

}  // namespace

void paint_image_to_video(GenerateFlags& flags) {
  if (flags.image.empty()) throw std::invalid_argument("--image is required, the one to begin with");
  auto pipe = cli::load<StableVideoDiffusionPipeline>(flags);
  check_model_type(flags, pipe.model_type());
  const auto image = load_image(flags.image);
  const auto params = pipe.resolve(image_to_video_params(flags));
  pipe.validate(image, params);
  const auto name = std::filesystem::path(flags.image).filename().string();
  const auto paint = [&](const StepCallback& callback) {
    auto with_callback = params;
    with_callback.callback = both(flags, callback);
    const auto result = pipe(image, with_callback);
    return Painted{.pictures = result.frames, .latents = result.latents, .cancelled = result.cancelled};
  };
  const auto warm_up = [&] {
    auto short_run = params;
    short_run.callback = two_steps;
    pipe.decode(pipe(image, short_run).latents, params.decode_chunk_size);
  };
  const Job job{.subjects = {{.request = {{"model", flags.request.model},
                                          {"image", name},
                                          {"scheduler", pipe.scheduler_name()},
                                          {"steps", params.num_inference_steps},
                                          {"min_guidance_scale", params.min_guidance_scale},
                                          {"max_guidance_scale", params.max_guidance_scale},
                                          {"seeds", params.seeds},
                                          {"batch_size", params.num_videos_per_prompt},
                                          {"width", params.width},
                                          {"height", params.height},
                                          {"num_frames", *params.num_frames},
                                          {"fps", params.fps},
                                          {"motion_bucket_id", params.motion_bucket_id},
                                          {"noise_aug_strength", params.noise_aug_strength},
                                          {"decode_chunk_size", *params.decode_chunk_size},
                                          {"init_latents", params.latents.defined()}},
                              .caption = name}},
                .run = paint,
                .warm_up = warm_up};
  run(pipe, flags, {job}, params.num_videos_per_prompt, {*params.num_frames, 3, params.height, params.width},
      static_cast<double>(params.fps));
}

void paint_text_to_video(GenerateFlags& flags) {
  constexpr std::int64_t kFps = 4;  // of the original's demo
  cli::require_prompt(flags);
  auto pipe = cli::load<TextToVideoZeroPipeline>(flags);
  check_model_type(flags, pipe.model_type());
  const auto params = pipe.resolve(text_to_video_params(flags));
  auto fps = kFps;
  flags.take("--fps", flags.fps, fps);
  const auto paint = [&](const std::string& prompt, const StepCallback& callback) {
    auto with_callback = params;
    with_callback.callback = both(flags, callback);
    const auto result = pipe(prompt, with_callback);
    return Painted{.pictures = result.cancelled ? torch::Tensor() : result.frames.unsqueeze(0),
                   .latents = result.latents,
                   .cancelled = result.cancelled};
  };
  const auto warm_up = [&](const std::string& prompt) {  // to the second step of all frames
    auto short_run = params;
    short_run.callback = [steps = 0, &params](const PipelineStep& step) mutable {
      return step.latents.size(0) < params.video_length || ++steps < 2;
    };
    pipe.decode(pipe(prompt, short_run).latents, params.vae);
  };
  std::vector<Job> jobs;
  for (const auto& prompt : flags.request.prompts) {
    pipe.validate(prompt, params);
    jobs.push_back({.subjects = {{.request = {{"model", flags.request.model},
                                              {"prompt", prompt},
                                              {"negative_prompt", params.negative_prompt.value_or("")},
                                              {"prompt_weighting", params.prompt_weighting},
                                              {"max_prompt_chunks", params.max_prompt_chunks},
                                              {"scheduler", pipe.scheduler_name()},
                                              {"steps", params.num_inference_steps},
                                              {"guidance_scale", params.guidance_scale},
                                              {"clip_skip", params.clip_skip},
                                              {"seeds", params.seeds},
                                              {"width", params.width},
                                              {"height", params.height},
                                              {"num_frames", params.video_length},
                                              {"fps", fps},
                                              {"motion_field_strength_x", params.motion_field_strength_x},
                                              {"motion_field_strength_y", params.motion_field_strength_y},
                                              {"t0", params.t0},
                                              {"t1", params.t1},
                                              {"eta", params.eta},
                                              {"init_latents", params.latents.defined()}},
                                  .caption = prompt}},
                    .run = [&, prompt](const StepCallback& callback) { return paint(prompt, callback); },
                    .warm_up = [&, prompt] { warm_up(prompt); }});
  }
  run(pipe, flags, jobs, 1, {params.video_length, 3, params.height, params.width}, static_cast<double>(fps));
}

}  // namespace deepcache::apps
