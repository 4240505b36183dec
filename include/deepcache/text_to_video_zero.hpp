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
#include "deepcache/stable_diffusion.hpp"
#include "deepcache/unet.hpp"

/// Text to video with the weights of a Stable Diffusion (Text2Video-Zero, arXiv 2303.13439), exported by
/// `tools/export.py PIPELINE_DIR OUT_DIR --as text-to-video-zero`.
///
///   auto pipe = deepcache::TextToVideoZeroPipeline::load("models/sd15-video");
///   deepcache::Helper helper(pipe);
///   helper.set_params({.cache_interval = 3});
///   helper.enable();
///   auto frames = pipe("a panda playing the guitar on Times Square", {.video_length = 8}).frames;
///
/// Not for Stable Diffusion packages as they are: their UNets look at each picture alone.
namespace deepcache {

/// Defaults are those of diffusers' TextToVideoZeroPipeline. A timestep t of the paper is counted from the end of the
/// run: t0 = 44 of 50 is the sixth, which the step from the fifth leads to.
struct TextToVideoZeroParams {
  std::int64_t video_length = 8;                    ///< frames, 1 or above
  std::optional<std::string> negative_prompt = {};  ///< used if guidance_scale is above 1; none: ""
  std::int64_t num_inference_steps = 50;            ///< 1 to the training steps, less the scheduler's steps_offset
  double guidance_scale = 7.5;  ///< classifier-free guidance (arXiv 2207.12598); 1 or below: none, and half the work
                                ///< (diffusers' pipeline fails then)
  std::int64_t clip_skip = 0;  ///< as StableDiffusionParams's; diffusers' pipeline has none, nor the weights and chunks
  std::int64_t height = 0;     ///< pixels, a multiple of the VAE's factor; 0: the model's own
  std::int64_t width = 0;      ///< likewise
  std::vector<std::uint64_t> seeds = {0};  ///< one, for all that is drawn: noise as Python draws it
  double eta = 0.0;  ///< DDIM's, 0 to 1 (Python ignores it where the scheduler isn't DDIM; here it must be 0 then)
  torch::Tensor latents = {};  ///< if defined, the first frame's initial noise, [1, C, h, w]

  /// How far the picture moves from frame to frame (section 3.3.1), in pixels of a picture of 512x512 to the left and
  /// up; other sizes move in proportion.
  double motion_field_strength_x = 12;
  double motion_field_strength_y = 12;
  /// The motion is added to the first frame's latents at t0, which then go back to t1 (section 3.3.1): 0 <= t0 < t1,
  /// below the calls of the UNet that the first frame alone would need (num_inference_steps; PLMS has one more).
  std::int64_t t0 = 44;
  std::int64_t t1 = 47;
  /// How many frames' motion each frame has gone through, as many as frames; the first one doesn't move whatever its
  /// id. Empty: 0, 1, 2, ... A long video is made in chunks, {0, 1, 2}, {0, 3, 4}, ..., with one seed: each begins with
  /// the same first frame, to be left out but once.
  std::vector<std::int64_t> frame_ids = {};

  /// Background smoothing (section 3.3.3, optional there): the foreground of each frame that a run without a mask gave,
  /// [video_length, 1, H, W] from 0 to 1. Where the mask of a frame and the moved one of the first are 0, the latents
  /// at t1 become smooth_bg_strength of their own and the rest of the first frame's, moved. Masks come from the app:
  /// the original's detector of salient objects isn't part of this library, and diffusers has none of this.
  torch::Tensor foreground_mask = {};
  double smooth_bg_strength = 0.4;  ///< 0 to 1; the paper's alpha is 1 less this

  bool prompt_weighting = false;       ///< as StableDiffusionParams's
  std::int64_t max_prompt_chunks = 1;  ///< likewise

  VaeOptions vae = {};
  bool decode = true;  ///< false: latents only, as diffusers' output_type="latent"
  /// After each step; returning false ends the run. Latents are [1, C, h, w] until the frames part at t1.
  StepCallback callback = {};
};

struct TextToVideoZeroResult {
  torch::Tensor frames;   ///< [F, 3, H, W], float32 in [0, 1], on the CPU; undefined if not decoded or cancelled
  torch::Tensor latents;  ///< [F, C, h, w] in the model's dtype on its device; [1, C, h, w] if cancelled before t1
  bool cancelled = false;
};

/// One object serves one thread at a time.
class TextToVideoZeroPipeline {
 public:
  /// @param folder  a model package; each file that is read is checked against the manifest
  /// @throws std::runtime_error if a file is missing, damaged, or not what it should be.
  /// @throws std::invalid_argument if the device isn't there, if the scheduler isn't known or steps from sigma to sigma
  ///         (Euler, Heun), which Text2Video-Zero can't be run with, or if there are ControlNets.
  static TextToVideoZeroPipeline load(const std::filesystem::path& folder, const LoadOptions& options = {});

  ~TextToVideoZeroPipeline();
  TextToVideoZeroPipeline(TextToVideoZeroPipeline&&) noexcept;
  TextToVideoZeroPipeline& operator=(TextToVideoZeroPipeline&&) noexcept;

  /// Makes one video. The UNet is run in three parts: on the first frame to t1, on it again to t0, and on all frames
  /// from t1 to the end. Each part's first step is full, as in DeepCache's own pipeline
  /// (sd/pipeline_text_to_video_zero.py); all three are one run in the helper's statistics.
  /// SkipMode::kEven, kQuad and kCenter place full steps in each part by itself, so that a center must lie within each.
  /// @throws std::invalid_argument if a parameter is out of its range (the message names the range).
  TextToVideoZeroResult operator()(const std::string& prompt, const TextToVideoZeroParams& params = {});

  /// Throws what running this would throw for a parameter, and computes nothing.
  void validate(const std::string& prompt, const TextToVideoZeroParams& params = {}) const;

  /// The same parameters with those set that are left to the model: height, width, and frame_ids.
  TextToVideoZeroParams resolve(const TextToVideoZeroParams& params) const;

  /// [F, C, h, w] of the latents of such a run; those that it may be given, `TextToVideoZeroParams::latents`, are the
  /// first frame's alone.
  /// @throws std::invalid_argument unless video_length is 1 or above, and for a height or width that can't be.
  std::vector<std::int64_t> latent_shape(const TextToVideoZeroParams& params = {}) const;

  /// Frames [F, 3, H, W], float32 in [0, 1], on the CPU, of latents [F, C, h, w] as `operator()` returns them.
  /// @throws std::invalid_argument if the latents aren't such.
  torch::Tensor decode(const torch::Tensor& latents, const VaeOptions& options = {}) const;

  /// Pixels to a latent, of each side.
  std::int64_t vae_scale_factor() const;

  /// Another scheduler with the package's settings, as in `load`.
  /// @throws std::invalid_argument if it isn't known, or steps from sigma to sigma.
  /// @throws std::runtime_error if it can't be run with a setting.
  void set_scheduler(std::string_view class_name);
  /// `Scheduler::configured_name`.
  std::string scheduler_name() const;

  /// "text2video-zero".
  std::string model_type() const;

  UNet unet() const;

 private:
  struct Impl;
  explicit TextToVideoZeroPipeline(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace deepcache
