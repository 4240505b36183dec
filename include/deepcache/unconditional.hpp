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

/// Pictures of what a model was trained on, without a prompt: DDPM (arXiv 2006.11239) with diffusers' UNet2DModel, such
/// as those of CIFAR-10 and LSUN. The model package is made by tools/export.py.
///
///   auto pipe = deepcache::UnconditionalPipeline::load("models/church", {.scheduler = "ddim"});
///   deepcache::Helper helper(pipe);
///   helper.set_params({.cache_interval = 5, .cache_branch_id = 2});
///   helper.enable();
///   auto result = pipe({.batch_size = 4, .num_inference_steps = 100});
///
/// Not for models of classes or prompts.
namespace deepcache {

/// Defaults are those of diffusers' DDPMPipeline and DDIMPipeline.
struct UnconditionalParams {
  std::int64_t batch_size = 1;                           ///< pictures, 1 or more
  std::optional<std::int64_t> num_inference_steps = {};  ///< 1 to the training steps; not set: 1000 with DDPMScheduler
                                                         ///< (but no more than the training steps), else 50
  double eta = 0.0;                        ///< DDIM's, 0 to 1; must be 0 with schedulers that don't have it
  bool use_clipped_model_output = false;   ///< DDIM's: derive the noise again from the clipped picture
  std::vector<std::uint64_t> seeds = {0};  ///< one, for noise drawn as Python draws it from one CPU generator for the
                                           ///< whole batch; or one for each picture, as from a list of generators
  torch::Tensor latents = {};  ///< if defined, the initial noise (of unit variance), [B, C, H, W], instead of what the
                               ///< seeds give
  StepCallback callback = {};  ///< after each step; returning false ends the run
};

struct UnconditionalResult {
  torch::Tensor images;  ///< [B, C, H, W], float32 in [0, 1], on the CPU; C is 3, or 1 of greys. Undefined if cancelled
  torch::Tensor latents;  ///< the same as the model has them, in about [-1, 1], in its dtype on its device
  bool cancelled = false;
};

/// One object serves one thread at a time.
class UnconditionalPipeline {
 public:
  /// @param folder  a model package; each file that is read is checked against the manifest
  /// @throws std::runtime_error if a file is missing, damaged, or not what it should be.
  /// @throws std::invalid_argument if the device isn't there, the scheduler isn't known, or for ControlNets.
  static UnconditionalPipeline load(const std::filesystem::path& folder, const LoadOptions& options = {});

  ~UnconditionalPipeline();
  UnconditionalPipeline(UnconditionalPipeline&&) noexcept;
  UnconditionalPipeline& operator=(UnconditionalPipeline&&) noexcept;

  /// Begins a run of the enabled helper, if there is one.
  /// @throws std::invalid_argument if a parameter is out of its range (the message names the range).
  UnconditionalResult operator()(const UnconditionalParams& params = {});

  /// Throws what a run would throw for a parameter, and computes nothing.
  void validate(const UnconditionalParams& params = {}) const;

  /// The same parameters with num_inference_steps set.
  UnconditionalParams resolve(const UnconditionalParams& params) const;

  /// [B, C, H, W] of what a run makes.
  std::vector<std::int64_t> latent_shape(const UnconditionalParams& params = {}) const;

  /// Another scheduler with the package's settings, as in `load`.
  /// @throws std::invalid_argument if it isn't known. @throws std::runtime_error if it can't be run with a setting.
  void set_scheduler(std::string_view class_name);
  /// `Scheduler::configured_name`.
  std::string scheduler_name() const;

  /// "ddpm".
  std::string model_type() const;

  UNet unet() const;

 private:
  struct Impl;
  explicit UnconditionalPipeline(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace deepcache
