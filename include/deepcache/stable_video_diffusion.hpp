#pragma once

#include <torch/types.h>

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "deepcache/pipeline.hpp"
#include "deepcache/unet.hpp"

/// Image to video with a Stable Video Diffusion model package (made by tools/export.py): SVD and SVD-XT.
///
///   auto pipe = deepcache::StableVideoDiffusionPipeline::load("models/svd-xt");
///   deepcache::Helper helper(pipe);
///   helper.set_params({.cache_interval = 3});
///   helper.enable();
///   auto result = pipe(deepcache::load_image("rocket.png"), {.motion_bucket_id = 160});
///   deepcache::save_png(result.frames[0][0], "first.png");
///
/// Not for diffusers folders as they are: export them first.
namespace deepcache {

/// Defaults are those of diffusers' StableVideoDiffusionPipeline.
struct StableVideoDiffusionParams {
  std::int64_t height = 576;  ///< pixels, a multiple of the VAE's factor; 0: the model's sample_size, as in Python
  std::int64_t width = 1024;  ///< likewise. Images of another size are resized to it
  std::optional<std::int64_t> num_frames = {};  ///< 1 or above; not set: the model's own, 14 of SVD, 25 of SVD-XT
  std::int64_t num_inference_steps = 25;        ///< 1 to the training steps
  double min_guidance_scale = 1.0;              ///< of the first frame; it rises (or falls) evenly to the last frame's
  double max_guidance_scale = 3.0;      ///< of the last frame; 1 or below: no guidance, and then min mustn't be above 1
  std::int64_t fps = 7;                 ///< that the model is told, 1 to 1000
  std::int64_t motion_bucket_id = 127;  ///< the higher, the more motion, 0 to 1023; the models learned 0 to 255
  double noise_aug_strength = 0.02;     ///< standard deviation of the noise on the image (in [-1, 1]), 0 or above
  std::optional<std::int64_t> decode_chunk_size = {};  ///< frames decoded at a time, 1 or above; not set: num_frames
  std::int64_t num_videos_per_prompt = 1;              ///< of each image
  std::vector<std::uint64_t> seeds = {0};  ///< one, for noise drawn as Python draws it from one CPU generator for the
                                           ///< whole batch; or one for each video, as from a list of generators
  /// If defined, the initial noise (of unit variance), [B, F, C, h, w], instead of what the seeds give.
  torch::Tensor latents = {};
  bool decode = true;          ///< false: latents only, as diffusers' output_type="latent"
  StepCallback callback = {};  ///< after each step; returning false ends the run
};

struct StableVideoDiffusionResult {
  torch::Tensor frames;   ///< [B, F, 3, H, W], float32 in [0, 1], on the CPU; undefined if not decoded or cancelled
  torch::Tensor latents;  ///< [B, F, C, h, w] in the model's dtype on its device
  bool cancelled = false;
};

/// One object serves one thread at a time.
class StableVideoDiffusionPipeline {
 public:
  /// @param folder  a model package; each file that is read is checked against the manifest
  /// @throws std::runtime_error if a file is missing, damaged, or not what it should be.
  /// @throws std::invalid_argument if the device isn't there, the scheduler isn't known, or ControlNets are given.
  static StableVideoDiffusionPipeline load(const std::filesystem::path& folder, const LoadOptions& options = {});

  ~StableVideoDiffusionPipeline();
  StableVideoDiffusionPipeline(StableVideoDiffusionPipeline&&) noexcept;
  StableVideoDiffusionPipeline& operator=(StableVideoDiffusionPipeline&&) noexcept;

  /// Begins a run of the enabled helper, if there is one.
  /// @param image  [3, H, W] in [0, 1], or several as one batch, [n, 3, H, W]: the first one's videos come first. (With
  ///               several images and several videos of each, diffusers 0.36 mixes up which image is whose.) One of
  ///               another size is resized as diffusers does it, to 8 bits by Lanczos' filter; one of another aspect is
  ///               stretched, not cropped, and a warning is logged
  /// @throws std::invalid_argument if the image or a parameter is out of its range (the message names the range).
  StableVideoDiffusionResult operator()(const torch::Tensor& image, const StableVideoDiffusionParams& params = {});

  /// Throws what running these would throw for image and parameters, and computes nothing.
  void validate(const torch::Tensor& image, const StableVideoDiffusionParams& params = {}) const;

  /// The same parameters with those set that are left to the model: height, width, num_frames, decode_chunk_size.
  StableVideoDiffusionParams resolve(const StableVideoDiffusionParams& params) const;

  /// [B, F, C, h, w] of the latents of a run of so many images.
  std::vector<std::int64_t> latent_shape(std::size_t num_images, const StableVideoDiffusionParams& params = {}) const;

  /// Pixels to a latent, of each side.
  std::int64_t vae_scale_factor() const;

  /// Frames [B, F, 3, H, W], float32 in [0, 1], on the CPU, of latents as `operator()` returns them.
  /// @param decode_chunk_size  frames at a time; not set: those of one video
  /// @throws std::invalid_argument unless there are such latents, and 1 frame or more at a time.
  torch::Tensor decode(const torch::Tensor& latents, std::optional<std::int64_t> decode_chunk_size = {}) const;

  /// Another scheduler with the package's settings, as in `load`.
  /// @throws std::invalid_argument if it isn't known. @throws std::runtime_error if it can't be run with a setting.
  void set_scheduler(std::string_view class_name);
  /// `Scheduler::configured_name`.
  std::string scheduler_name() const;

  /// What the model is: "svd-xt" if its own number of frames is 25, otherwise "svd".
  std::string model_type() const;

  UNet unet() const;

 private:
  struct Impl;
  explicit StableVideoDiffusionPipeline(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace deepcache
