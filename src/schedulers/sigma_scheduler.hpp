#pragma once

#include <optional>

#include "schedulers/prediction.hpp"
#include "schedulers/scheduler_base.hpp"
#include "schedulers/sigma_schedule.hpp"
#include "schedulers/timestep_spacing.hpp"

namespace deepcache {

/// What the schedulers that step from sigma to sigma share. Defaults are those of diffusers; not every class has all.
struct SigmaOptions {
  NoiseScheduleOptions noise_schedule;
  PredictionType prediction_type = PredictionType::kEpsilon;
  TimestepSpacing timestep_spacing = TimestepSpacing::kLinspace;
  std::int64_t steps_offset = 0;
  bool log_linear = false;  ///< sigmas even in their logarithm, whatever the timesteps, instead of at the timesteps
  SigmaSpacing sigma_spacing = SigmaSpacing::kTimesteps;
  std::optional<double> sigma_min;  ///< of the other sigma spacings; otherwise what the timesteps' sigmas end with
  std::optional<double> sigma_max;  ///< and begin with
  bool continuous = false;          ///< timesteps are 0.25 log sigma (arXiv 2206.00364, Table 1: EDM's c_noise)
  FinalSigmas final_sigmas = FinalSigmas::kZero;
};

/// A scheduler in the terms of Karras et al. (arXiv 2206.00364): samples keep the image's scale, x = x_0 + sigma
/// epsilon, and steps follow dx/dsigma = (x - x_0) / sigma (their eq. 3 with sigma(t) = t). The model still sees
/// samples of variance 1.
class SigmaScheduler : public SchedulerBase {
 public:
  NoiseProcess noise_process() const final { return NoiseProcess::kVarianceExploding; }
  double init_noise_sigma() const final;
  torch::Tensor scale_model_input(const torch::Tensor& sample, std::int64_t step_index) const final;
  torch::Tensor add_noise(const torch::Tensor& original_samples, const torch::Tensor& noise,
                          const torch::Tensor& timesteps) const final;
  torch::Tensor add_noise_at(const torch::Tensor& original_samples, const torch::Tensor& noise,
                             std::int64_t step_index) const final;

 protected:
  explicit SigmaScheduler(const SigmaOptions& options);

  /// One timestep for each inference step, one sigma more.
  Schedule make_schedule(std::int64_t num_inference_steps) const override;

  /// x_0, from what the model made of the `sample` at `sigma`.
  torch::Tensor predict_original_sample(const torch::Tensor& model_output, const torch::Tensor& sample,
                                        const torch::Tensor& sigma) const;

  PredictionType prediction_type() const { return options_.prediction_type; }

 private:
  /// `indices` of the run's calls, [1] or [B].
  torch::Tensor add_noise_of(const torch::Tensor& indices, const torch::Tensor& original_samples,
                             const torch::Tensor& noise) const;

  SigmaOptions options_;
  torch::Tensor train_sigmas_;
};

/// Reads what all these schedulers of diffusers have, but for the prediction type.
/// @param further  schedules, see `read_noise_schedule`
SigmaOptions read_sigma_options(const ConfigReader& config, const SigmaOptions& defaults = {},
                                const std::vector<NamedBetaSchedule>& further = {});

/// Reads use_karras_sigmas and its like, sigma_min and sigma_max.
void read_sigma_spacing(const ConfigReader& config, SigmaOptions& options);

}  // namespace deepcache
