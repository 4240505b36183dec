#pragma once

#include <deepcache/cli.hpp>

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "pipelines/jobs.hpp"

namespace deepcache::apps {

/// What the flags of `deepcache generate` say, for all families together.
struct GenerateFlags : cli::Options {
  std::string image, mask, refiner, model_type;
  std::vector<std::filesystem::path> control_images = {};
  std::vector<double> control_scales = {}, control_starts = {}, control_ends = {};

  std::vector<std::int64_t> class_labels = {};
  std::int64_t num_frames = 0, fps = 0, motion_bucket_id = 0, decode_chunk_size = 0;
  double noise_aug_strength = 0, min_guidance_scale = 0, max_guidance_scale = 0;
  std::int64_t t0 = 0, t1 = 0;
  double motion_field_strength_x = 0, motion_field_strength_y = 0;

  const CLI::App* command = nullptr;  ///< whose flags they are

  /// Sets a parameter if its flag was given: what isn't given is the pipeline's to decide.
  template <typename Value, typename Parameter>
  void take(const char* flag, const Value& value, Parameter& parameter) const {
    if (command->count(flag) > 0) parameter = value;
  }
};

/// Runs the jobs of a pipeline as the flags say.
/// @param video_shape  [F, 3, H, W] of its pictures, if they are videos
template <typename Pipeline>
void run(Pipeline& pipe, const GenerateFlags& flags, const std::vector<Job>& jobs, std::int64_t pictures_a_subject,
         const std::vector<std::int64_t>& video_shape = {}, double fps = 0) {
  std::vector<Helper> helpers;
  helpers.emplace_back(pipe);
  run_jobs(jobs, helpers,
           {.cache = cli::cache_params(flags, pipe.unet()),
            .compare = flags.request.compare,
            .outputs = flags.request.outputs,
            .pictures_a_subject = static_cast<std::size_t>(pictures_a_subject),
            .video_shape = video_shape,
            .fps = fps,
            .on_report = flags.request.on_prompt});
}

/// A job's callback, and the one that the flags ask for.
StepCallback both(const GenerateFlags& flags, const StepCallback& callback);

/// Ends a run that only warms up.
bool two_steps(const PipelineStep& step);

// What runs the packages of a family. Their pipelines say what is wrong with the flags' values.
void paint_stable_diffusion(GenerateFlags& flags);
void paint_image_to_video(GenerateFlags& flags);
void paint_text_to_video(GenerateFlags& flags);
void paint_unconditional(GenerateFlags& flags);
void paint_classes(GenerateFlags& flags);

/// @throws std::invalid_argument if --model_type is given and isn't that of the model.
void check_model_type(const GenerateFlags& flags, const std::string& actual);

}  // namespace deepcache::apps
