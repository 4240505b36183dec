#pragma once

#include <torch/types.h>

#include <cstdint>
#include <vector>

#include "deepcache/scheduler.hpp"
#include "schedulers/noise_schedule.hpp"

namespace deepcache {

/// What a run goes through.
struct Schedule {
  torch::Tensor timesteps;    ///< one for each call of the UNet, as `Scheduler::timesteps` documents them
  torch::Tensor sigmas = {};  ///< one for each call, and where the last one leads: float32 on the CPU; undefined in
                              ///< schedulers without
};

/// What every scheduler does alike: the noise schedule, the checks, and the order of the calls in a run. A scheduler
/// adds its timesteps, its formula, and the history that the formula needs.
class SchedulerBase : public Scheduler {
 public:
  std::int64_t num_train_timesteps() const final { return num_train_timesteps_; }
  void set_timesteps(std::int64_t num_inference_steps) final;
  torch::Tensor step(const torch::Tensor& model_output, std::int64_t step_index, const torch::Tensor& sample,
                     const StepOptions& options = {}) final;
  torch::Tensor add_noise(const torch::Tensor& original_samples, const torch::Tensor& noise,
                          const torch::Tensor& timesteps) const override;
  torch::Tensor add_noise_between(const torch::Tensor& samples, const torch::Tensor& noise, std::int64_t from,
                                  std::int64_t to) const override;

 protected:
  explicit SchedulerBase(const NoiseScheduleOptions& noise_schedule);

  /// The schedule of a run. May throw std::invalid_argument; mustn't change the scheduler.
  virtual Schedule make_schedule(std::int64_t num_inference_steps) const = 0;

  /// Whether `step` takes Euler's options, s_churn and what goes with it.
  virtual bool has_churn_options() const { return false; }

  /// Forgets the history of earlier runs.
  virtual void begin_run() {}

  /// x_{t-1}, from arguments already checked. A call that throws must leave the history as it was.
  virtual torch::Tensor take_step(const torch::Tensor& model_output, std::int64_t step_index,
                                  const torch::Tensor& sample, const StepOptions& options) = 0;

  std::int64_t num_inference_steps() const { return num_inference_steps_; }

  /// The whole timestep of a step. Only for schedulers whose timesteps are int64.
  std::int64_t timestep_at(std::int64_t step_index) const;

  /// The run's sigmas; undefined in schedulers without.
  const torch::Tensor& sigmas() const { return sigmas_; }

  /// For `timesteps` [N], the indices in the run that have them, int64 [N]: the second where a timestep repeats.
  /// @throws std::invalid_argument for a timestep that isn't in the run.
  torch::Tensor indices_for_timesteps(const torch::Tensor& timesteps) const;

  /// Training timesteps from one inference step to the next, by integer division whatever the spacing.
  std::int64_t timestep_stride() const { return num_train_timesteps_ / num_inference_steps_; }

  /// alpha_bar_t, float32 on the CPU: its 0-d elements keep a half sample's dtype, and using them waits for no device.
  torch::Tensor alphas_cumprod_;

 private:
  void check_step(const torch::Tensor& model_output, std::int64_t step_index, const torch::Tensor& sample,
                  const StepOptions& options) const;

  torch::Tensor alphas_;  ///< alpha_t, the share of the variance that each training timestep leaves, as alphas_cumprod_
  torch::Tensor sigmas_;
  std::int64_t num_train_timesteps_;
  std::int64_t num_inference_steps_ = 0;
  bool running_ = false;              ///< whether the run has made a step
  std::int64_t last_step_index_ = 0;  ///< of the run's last step
  std::vector<std::int64_t> sizes_;   ///< of the run's samples
};

/// Standard normal noise for `sample`. @throws std::invalid_argument if `options.noise` isn't set.
torch::Tensor draw_noise(const StepOptions& options, const torch::Tensor& sample);

}  // namespace deepcache
