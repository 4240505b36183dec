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

/// Text to image, image to image and inpainting with a Stable Diffusion or SDXL model package (made by
/// tools/export.py): SD 1.x and 2.x, SDXL and its refiner, and their inpainting models.
///
///   auto pipe = deepcache::StableDiffusionPipeline::load("models/emoji");
///   deepcache::Helper helper(pipe);
///   helper.set_params({.cache_interval = 3});
///   helper.enable();
///   auto result = pipe("red heart", {.num_inference_steps = 50, .guidance_scale = 5.0});
///   deepcache::save_png(result.images[0], "heart.png");
///   auto changed = pipe("blue heart", {.image = result.images, .strength = 0.6});
///
/// Not for training, and not for diffusers folders as they are: export them first.
namespace deepcache {

/// Pixels.
struct ImageSize {
  std::int64_t height = 0;
  std::int64_t width = 0;
};

/// How the autoencoder works, for large pictures and batches: slower, in less memory.
struct VaeOptions {
  bool slicing = false;  ///< one picture at a time
  bool tiling = false;   ///< one tile of a picture at a time, which changes it a little
};

/// What one of the pipeline's ControlNets (arXiv 2302.05543) is shown, and how much it counts.
struct ControlImage {
  torch::Tensor image;  ///< [3, H, W] in [0, 1], for all prompts, or [P, 3, H, W], one for each of P prompts
  std::optional<double> conditioning_scale = {};  ///< its residuals are multiplied by this. Not set: 1; image to image
                                                  ///< 0.8; inpainting with SD 0.5
  double guidance_start = 0.0;  ///< it acts in those steps that begin at this share of the run or later,
  double guidance_end = 1.0;    ///< and end at this one or before; in the others its scale is 0
};

/// Defaults are those of diffusers' pipelines. With an image, the run is image to image
/// (StableDiffusionImg2ImgPipeline, StableDiffusionXLImg2ImgPipeline); with a mask too, inpainting
/// (StableDiffusionInpaintPipeline and StableDiffusionXLInpaintPipeline).
struct StableDiffusionParams {
  std::optional<std::string> negative_prompt = {};  ///< used if guidance_scale is above 1; none: "", or what the model
                                                    ///< has for that (SDXL: embeddings of zeros)
  std::int64_t num_inference_steps = 50;            ///< 1 to the training steps, less the scheduler's steps_offset
  std::optional<double> guidance_scale = {};        ///< classifier-free guidance (arXiv 2207.12598); 1 or below: none.
                                                    ///< Not set: 7.5, but 5 for SDXL, unless it inpaints without a
                                                    ///< ControlNet
  double guidance_rescale = 0;  ///< share of guidance's correction for overexposure (arXiv 2305.08891), 0 to 1
  std::int64_t clip_skip = 0;   ///< text encoder layers to leave out at the end, for the prompt
  std::int64_t height = 0;      ///< pixels, a multiple of the VAE's factor; 0: the image's, or else the control
                                ///< image's, or else the model's own
  std::int64_t width = 0;       ///< likewise
  std::int64_t num_images_per_prompt = 1;
  std::vector<std::uint64_t> seeds = {0};  ///< one, for noise drawn as Python draws it from one CPU generator for the
                                           ///< whole batch; or one for each image, as from a list of generators
  double eta = 0.0;  ///< DDIM's, 0 to 1 (Python ignores it where the scheduler isn't DDIM; here it must be 0 then)
  /// If defined, the initial noise (of unit variance), [B, C, h, w], instead of what the seeds give.
  torch::Tensor latents = {};

  /// What to begin with: images [3, H, W] or [n, 3, H, W] in [0, 1], or latents [n, C, h, w] as a run returns them; n
  /// divides the number of images that are made, which take turns.
  torch::Tensor image = {};
  std::optional<double> strength = {};  ///< with an image: the share of the steps that is run, above 0, to 1. Not set:
                                        ///< 0.8, inpainting 1; SDXL 0.3 (with a ControlNet 0.8), inpainting 0.9999
  /// With an image: what is painted anew, [1, H, W] or [m, 1, H, W], from 0.5 up, and what is kept, below.
  torch::Tensor mask = {};

  /// One for each of the pipeline's ControlNets, in their order, of the size of the pictures to make.
  std::vector<ControlImage> control_images = {};

  /// Runs a part of the steps only, by their share of the noise process, above 0 and below 1: until denoising_end, or
  /// from denoising_start on, with the image's latents as they are instead of noised ones. So a model hands over to its
  /// refiner (arXiv 2307.01952, section 2.5); `strength` has no meaning then.
  std::optional<double> denoising_end = {}, denoising_start = {};

  /// Of SDXL only: prompts of the second text encoder (none: the first one's; "" is an empty one, where diffusers takes
  /// the first one's; as in diffusers, without a negative_prompt negative_prompt_2 counts for nothing where the package
  /// asks for zeros then), and what the model is told of the pictures that it learned from (none: the size asked for).
  std::optional<std::string> prompt_2 = {}, negative_prompt_2 = {};
  std::optional<ImageSize> original_size = {}, target_size = {};
  ImageSize crops_coords_top_left = {};
  /// Not set: the positive ones. Without an image they count if both are set.
  std::optional<ImageSize> negative_original_size = {}, negative_target_size = {};
  ImageSize negative_crops_coords_top_left = {};  ///< but image to image and inpainting take the positive
                                                  ///< ones, the refiner's excepted, as in Python
  double aesthetic_score = 6.0, negative_aesthetic_score = 2.5;  ///< the refiner's, instead of the target size

  /// Whether brackets in prompts are weights: "(x:1.3)" multiplies the attention to x, "(x)" by 1.1, "[x]" by 1 / 1.1;
  /// they nest, and "\(" is a bracket. Weighted states keep their mean, as in diffusers' lpw_stable_diffusion.py.
  /// Each within -1000 and 1000.
  bool prompt_weighting = false;
  /// Chunks of 75 tokens that a prompt may have, 1 or more; what is beyond them is cut, with a warning that shows it.
  std::int64_t max_prompt_chunks = 1;

  VaeOptions vae = {};
  bool decode = true;  ///< false: latents only, as diffusers' output_type="latent"
  StepCallback callback = {};
};

struct StableDiffusionResult {
  torch::Tensor images;   ///< [B, 3, H, W], float32 in [0, 1], on the CPU; undefined if not decoded or cancelled
  torch::Tensor latents;  ///< [B, C, h, w] in the model's dtype on its device
  bool cancelled = false;
};

/// One object serves one thread at a time.
class StableDiffusionPipeline {
 public:
  /// @param folder  a model package; each file that is read is checked against the manifest
  /// @throws std::runtime_error if a file is missing, damaged, or not what it should be.
  /// @throws std::invalid_argument if the device isn't there, the scheduler isn't known, or a ControlNet is for another
  ///         model.
  static StableDiffusionPipeline load(const std::filesystem::path& folder, const LoadOptions& options = {});

  ~StableDiffusionPipeline();
  StableDiffusionPipeline(StableDiffusionPipeline&&) noexcept;
  StableDiffusionPipeline& operator=(StableDiffusionPipeline&&) noexcept;

  /// Runs one prompt, or several as one batch: images of the first prompt come first.
  /// Begins a run of the enabled helper, if there is one.
  /// @throws std::invalid_argument if a parameter is out of its range (the message names the range).
  /// @throws std::runtime_error if a part of the package that is read when first needed, the VAE's encoder, is damaged.
  StableDiffusionResult operator()(const std::string& prompt, const StableDiffusionParams& params = {});
  StableDiffusionResult operator()(const std::vector<std::string>& prompts, const StableDiffusionParams& params = {});

  /// Throws what running these would throw for a parameter, and computes nothing.
  void validate(const std::vector<std::string>& prompts, const StableDiffusionParams& params = {}) const;

  /// The same parameters with those set that are left to the model: height, width, guidance_scale, with an image
  /// strength, and each control image's conditioning_scale.
  StableDiffusionParams resolve(const StableDiffusionParams& params) const;

  /// [B, C, h, w] of the latents of a run of so many prompts.
  std::vector<std::int64_t> latent_shape(std::size_t num_prompts, const StableDiffusionParams& params = {}) const;

  /// Pixels to a latent, of each side.
  std::int64_t vae_scale_factor() const;

  /// Whether the other pipeline can go on with this one's latents, in the middle of a run too: its VAE must have the
  /// same kind, and its scheduler too (`Scheduler::noise_process`).
  bool shares_latents_with(const StableDiffusionPipeline& other) const;

  /// Images [B, 3, H, W], float32 in [0, 1], on the CPU, of latents [B, C, h, w] as `operator()` returns them.
  /// @throws std::invalid_argument for other shapes, or for tiling with a VAE that has no tiles.
  torch::Tensor decode(const torch::Tensor& latents, const VaeOptions& options = {}) const;

  /// Another scheduler with the package's settings, as in `load`.
  /// @throws std::invalid_argument if it isn't known. @throws std::runtime_error if it can't be run with a setting.
  void set_scheduler(std::string_view class_name);
  /// `Scheduler::configured_name`.
  std::string scheduler_name() const;

  /// What the model is: "sd1.5", "sd2.1", "sd" (a Stable Diffusion of another text width), "sdxl", "sdxl-refiner",
  /// "sd-inpaint" or "sdxl-inpaint" (with a UNet made for that).
  std::string model_type() const;

  UNet unet() const;

 private:
  struct Impl;
  explicit StableDiffusionPipeline(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace deepcache
