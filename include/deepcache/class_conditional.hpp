#pragma once

#include <torch/types.h>

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "deepcache/pipeline.hpp"
#include "deepcache/unet.hpp"

/// Pictures of classes with CompVis's class-conditional latent diffusion model (arXiv 2112.10752): LDM-4-G of ImageNet,
/// exported by tools/export.py from cin256-v2's checkpoint.
///
///   auto pipe = deepcache::ClassConditionalPipeline::load("models/cin256");
///   deepcache::Helper helper(pipe);
///   helper.set_params({.cache_interval = 5});
///   helper.enable();
///   auto result = pipe({207, 360}, {.num_inference_steps = 20, .guidance_scale = 3.0});  // retriever, otter
///   deepcache::save_png(result.images[0], "retriever.png");
///
/// Not for models that are told of classes in another way, such as by an embedding added to that of the timestep.
namespace deepcache {

/// Defaults are those of DeepCache's script for this model (experiments/ldm/sample_ddp_deepcache.py), with which its
/// paper's figures were made. CompVis's notebook (latent_imagenet_diffusion.ipynb) has 20 steps and a scale of 3.
struct ClassConditionalParams {
  std::int64_t num_images_per_label = 1;
  /// 1 to 1000, of CompVis's DDIM, which takes every floor(1000 / N)th timestep: some N give more calls than N (150:
  /// 167), and those that would go past the last timestep are refused, with a message that names another.
  std::int64_t num_inference_steps = 250;
  double guidance_scale = 1.5;             ///< classifier-free guidance (arXiv 2207.12598); 1: none, and half the work;
                                           ///< below 1, as in CompVis's code, towards no class
  std::int64_t height = 0;                 ///< pixels, a multiple of vae_scale_factor(); 0: the model's own
  std::int64_t width = 0;                  ///< likewise
  std::vector<std::uint64_t> seeds = {0};  ///< one, for noise drawn from one generator for the whole batch, as Python
                                           ///< draws it after torch.manual_seed; or one for each image
  double eta = 0.0;                        ///< DDIM's, 0 to 1
  /// If defined, the initial noise (of unit variance), [B, C, h, w], instead of what the seeds give.
  torch::Tensor latents = {};
  bool decode = true;          ///< false: latents only
  StepCallback callback = {};  ///< after each step; returning false ends the run
};

struct ClassConditionalResult {
  torch::Tensor images;   ///< [B, 3, H, W], float32 in [0, 1], on the CPU; undefined if not decoded or cancelled
  torch::Tensor latents;  ///< [B, C, h, w] in the model's dtype on its device
  bool cancelled = false;
};

/// One object serves one thread at a time.
class ClassConditionalPipeline {
 public:
  /// @param folder  a model package of family "class-conditional"; each file that is read is checked
  /// @throws std::runtime_error if a file is missing, damaged, or not what it should be.
  /// @throws std::invalid_argument if the device isn't there, the scheduler isn't known, or ControlNets are asked for.
  static ClassConditionalPipeline load(const std::filesystem::path& folder, const LoadOptions& options = {});

  ~ClassConditionalPipeline();
  ClassConditionalPipeline(ClassConditionalPipeline&&) noexcept;
  ClassConditionalPipeline& operator=(ClassConditionalPipeline&&) noexcept;

  /// Runs one class, or several as one batch: images of the first label come first.
  /// Begins a run of the enabled helper, if there is one.
  /// @param class_labels  0 .. num_classes() - 1, of which the last is no class, but what guidance leads away from
  /// @throws std::invalid_argument if a label or a parameter is out of its range (the message names the range).
  ClassConditionalResult operator()(std::int64_t class_label, const ClassConditionalParams& params = {});
  ClassConditionalResult operator()(const std::vector<std::int64_t>& class_labels,
                                    const ClassConditionalParams& params = {});

  /// Throws what running these would throw for a parameter, and computes nothing.
  void validate(const std::vector<std::int64_t>& class_labels, const ClassConditionalParams& params = {}) const;

  /// The same parameters with those set that are left to the model: height and width.
  ClassConditionalParams resolve(const ClassConditionalParams& params) const;

  /// [B, C, h, w] of the latents of a run of so many labels.
  /// @throws std::invalid_argument for a height or width that can't be.
  std::vector<std::int64_t> latent_shape(std::size_t num_labels, const ClassConditionalParams& params = {}) const;

  /// ImageNet's are 1000, and the one without a class: 1001.
  std::int64_t num_classes() const;

  /// Of each side: 4 for LDM-4.
  std::int64_t vae_scale_factor() const;

  /// Images [B, 3, H, W], float32 in [0, 1], on the CPU, of latents as `operator()` returns them, one after the other.
  /// @throws std::invalid_argument if the latents aren't such.
  torch::Tensor decode(const torch::Tensor& latents) const;

  /// Another scheduler with the package's settings, as in `load`: the package's own is "compvis_ddim".
  /// @throws std::invalid_argument if it isn't known. @throws std::runtime_error if it can't be run with a setting.
  void set_scheduler(std::string_view class_name);
  /// `Scheduler::configured_name`.
  std::string scheduler_name() const;

  /// "ldm".
  std::string model_type() const;

  UNet unet() const;

 private:
  struct Impl;
  explicit ClassConditionalPipeline(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace deepcache
