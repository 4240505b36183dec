#pragma once

#include <torch/types.h>

#include <cstdint>
#include <filesystem>
#include <limits>
#include <memory>
#include <string>
#include <string_view>

#include "deepcache/noise.hpp"

/// Diffusion schedulers, configured by the scheduler_config.json files of diffusers.
///
///   auto scheduler = deepcache::Scheduler::from_config("models/emoji/scheduler/scheduler_config.json");
///   scheduler->set_timesteps(50);
///   auto latents = noise * scheduler->init_noise_sigma();
///   for (int64_t i = 0; i < scheduler->timesteps().size(0); ++i) {
///     auto output = unet(scheduler->scale_model_input(latents, i), scheduler->timesteps()[i], text);
///     latents = scheduler->step(output, i, latents);
///   }
///
/// Not for training. Schedulers hold the state of one run: one object serves one run at a time.
namespace deepcache {

/// What a step may be told besides its tensors.
struct StepOptions {
  double eta = 0.0;                       ///< DDIM's eta, 0 (deterministic) to 1 (as DDPM): `has_ddim_options`
  bool use_clipped_model_output = false;  ///< DDIM: derive the noise again from the clipped sample
  NoiseGenerator* noise = nullptr;        ///< where stochastic steps draw from; must be set where they draw

  // Euler's stochasticity (arXiv 2206.00364, Algorithm 2); only EulerDiscreteScheduler has it.
  double s_churn = 0.0;                                     ///< how much noise the whole run adds; 0: none
  double s_tmin = 0.0;                                      ///< the lowest noise level, sigma, to add it at
  double s_tmax = std::numeric_limits<double>::infinity();  ///< the highest
  double s_noise = 1.0;                                     ///< standard deviation of what is added
};

/// What a sample is made of, of image x_0 and noise epsilon.
enum class NoiseProcess {
  kVariancePreserving,  ///< sqrt(alpha) x_0 + sqrt(1 - alpha) epsilon: DDPM's (arXiv 2006.11239, eq. 4)
  kVarianceExploding,   ///< x_0 + sigma epsilon: Euler, Heun (arXiv 2011.13456, section 3.4)
  kFlow,                ///< (1 - sigma) x_0 + sigma epsilon: of use_flow_sigmas (arXiv 2209.03003)
};

class Scheduler {
 public:
  virtual ~Scheduler() = default;

  /// Makes the scheduler that a diffusers scheduler_config.json names in `_class_name`, or, if `class_name` isn't
  /// empty, that class from the same settings (as `OtherScheduler.from_config(scheduler.config)` does in Python). Short
  /// names work too: "ddim", "ddpm", "lcm", "euler", "euler_a" (Euler ancestral), "heun", "unipc", "plms" (PNDM with
  /// skip_prk_steps), and "dpm++_2m", to which "_sde", "_karras" or "_sde_karras" may be added: these switch on, and
  /// what else the settings say of algorithm, order and spacing of sigmas holds. "generalized_ddim" is DDIM as its
  /// paper's own code has it, whose setting "skip_type" is "uniform" or "quad"; "generalized_ddim_quad" is that one
  /// with "quad". "compvis_ddim", "CompVisDDIMScheduler" in full, is DDIM as CompVis's latent-diffusion has it.
  /// @throws std::runtime_error if the file can't be read, or holds a value that isn't supported (the message names
  /// it).
  /// @throws std::invalid_argument if `class_name` isn't known (the message lists those that are).
  static std::unique_ptr<Scheduler> from_config(const std::filesystem::path& file, std::string_view class_name = "");

  /// The same from the text of such a file.
  static std::unique_ptr<Scheduler> from_json(std::string_view json, std::string_view class_name = "");

  /// The class name in diffusers, such as "DDIMScheduler"; "CompVisDDIMScheduler" or a short name where diffusers has
  /// none.
  virtual std::string name() const = 0;

  /// By which `from_config` makes it again from the same settings: the class name, or a short name that sets more than
  /// the class, such as "dpm++_2m_karras". The class name, if it wasn't made so.
  std::string configured_name() const { return configured_name_.empty() ? name() : configured_name_; }

  /// Begins a run: sets `timesteps()` and forgets what earlier steps left behind.
  /// @throws std::invalid_argument unless 1 <= num_inference_steps <= num_train_timesteps, or if the configuration
  /// can't be run with that many (the earlier run then goes on).
  virtual void set_timesteps(std::int64_t num_inference_steps) = 0;

  /// One timestep for each call of the UNet, never rising, on the CPU: [calls] (calls can exceed the number of
  /// inference steps, and timesteps repeat). As in diffusers they are int64, or float32, with fractions, in the
  /// schedulers that step from sigma to sigma (Euler, Heun). Empty before `set_timesteps`.
  const torch::Tensor& timesteps() const { return timesteps_; }

  /// Timesteps of the noise process that the model was trained on, usually 1000.
  virtual std::int64_t num_train_timesteps() const = 0;

  /// The order of the method: how many calls of the UNet an inference step takes. A run from the middle, at inference
  /// step n (image to image), begins at index n * order(). PNDM's is 1, though a few of its steps take more calls.
  /// Cache intervals count calls: of a method of order 2, an even interval N refreshes in the first call of every
  /// (N / 2)th step.
  virtual std::int64_t order() const { return 1; }

  /// Whether `step` takes DDIM's options, eta and use_clipped_model_output.
  virtual bool has_ddim_options() const { return false; }

  /// Whether `step` adds noise, at most of its timesteps.
  virtual bool adds_noise(const StepOptions& options) const { return has_ddim_options() && options.eta > 0; }

  /// What its samples are. One scheduler can go on with another's if they are the same.
  virtual NoiseProcess noise_process() const { return NoiseProcess::kVariancePreserving; }

  /// Whether `step` can begin a run at this index: not in the middle of Heun's step of two calls, and with PNDM's
  /// Runge-Kutta steps at 0 alone.
  /// @throws std::invalid_argument if it can't.
  virtual void check_begin(std::int64_t /*step_index*/) const {}

  /// Channels of the model's output for one of the sample: 2 if it has learned the variance too.
  virtual std::int64_t outputs_a_channel() const { return 1; }

  /// Factor of the initial noise of a run; known after `set_timesteps`.
  virtual double init_noise_sigma() const { return 1.0; }

  /// What the UNet is given for `sample` at this step.
  /// @throws std::invalid_argument for an index out of range.
  virtual torch::Tensor scale_model_input(const torch::Tensor& sample, std::int64_t step_index) const;

  /// The sample of the previous timestep, x_{t-1}, from the model's output at x_t.
  /// Nothing is read back from the tensors' device. Multistep schedulers keep `model_output` and `sample` themselves,
  /// not copies: write into neither before the run ends.
  /// @param model_output  of the UNet, shape, dtype and device of `sample`; twice its channels with a learned variance
  /// @param step_index    0 .. timesteps().size(0) - 1, rising by one from call to call; 0 begins the run anew, and
  ///                      right after `set_timesteps` a run may begin at any index (image to image)
  /// @param sample        x_t, [B, C, H, W], float32, float16 or bfloat16; of one shape throughout a run, but for one
  ///                      sample that several go on from: what earlier steps left behind is then common to all
  /// @throws std::invalid_argument for an index out of range or out of order, for tensors that don't fit each other,
  ///         for options that the class doesn't have, or if noise is needed and `options.noise` isn't set. The run can
  ///         then go on with the same step.
  virtual torch::Tensor step(const torch::Tensor& model_output, std::int64_t step_index, const torch::Tensor& sample,
                             const StepOptions& options = {}) = 0;

  /// Original samples noised to the levels of `timesteps`, [B], or [1] for all, of the dtype of `timesteps()`: by
  /// DDPM's forward process (arXiv 2006.11239, eq. 4), or, in the schedulers that step from sigma to sigma, by adding
  /// noise times sigma. Those know the sigmas of their run's timesteps only: call `set_timesteps` first.
  /// @throws std::invalid_argument if the tensors don't fit each other, for a timestep out of the training's range, or
  ///         for one that isn't in the run, where only those are known.
  virtual torch::Tensor add_noise(const torch::Tensor& original_samples, const torch::Tensor& noise,
                                  const torch::Tensor& timesteps) const = 0;

  /// Original samples noised to what `step` expects at `step_index`, with which a run from the middle begins (image to
  /// image): the place in the run tells equal timesteps apart.
  /// @throws std::invalid_argument for an index out of range, or if the tensors don't fit each other.
  virtual torch::Tensor add_noise_at(const torch::Tensor& original_samples, const torch::Tensor& noise,
                                     std::int64_t step_index) const;

  /// Samples that are at one timestep already, noised on to a later one by DDPM's forward process (arXiv 2006.11239,
  /// eq. 2 over several timesteps).
  /// @throws std::invalid_argument unless 0 <= from <= to <= num_train_timesteps(), if the tensors don't fit each
  /// other,
  ///         or in the schedulers that step from sigma to sigma, whose samples aren't those of that process.
  virtual torch::Tensor add_noise_between(const torch::Tensor& samples, const torch::Tensor& noise, std::int64_t from,
                                          std::int64_t to) const = 0;

  /// The same scheduler at the same place in its run, with what earlier steps left behind: both go on from there, each
  /// for itself. What they share is only read.
  virtual std::unique_ptr<Scheduler> clone() const = 0;

 protected:
  /// That of a call, [1]. @throws std::invalid_argument for an index out of range.
  torch::Tensor timestep(std::int64_t step_index) const;

  torch::Tensor timesteps_;

 private:
  std::string configured_name_;
};

}  // namespace deepcache
