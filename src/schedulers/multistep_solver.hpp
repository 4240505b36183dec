#pragma once

#include <cstdint>
#include <limits>
#include <optional>
#include <vector>

#include "schedulers/prediction.hpp"
#include "schedulers/sample_clipping.hpp"
#include "schedulers/scheduler_base.hpp"
#include "schedulers/sigma_schedule.hpp"
#include "schedulers/timestep_spacing.hpp"

namespace deepcache {

/// What the solvers of the diffusion ODE in half the log signal-to-noise ratio lambda have alike.
struct MultistepSolverOptions {
  NoiseScheduleOptions noise_schedule;
  SampleClipping clipping;  ///< these classes can threshold, but not clip
  PredictionType prediction_type = PredictionType::kEpsilon;
  std::int64_t solver_order = 2;  ///< 1 to 3
  bool lower_order_final = true;  ///< at the end of a run (DPM-Solver: of a short one)
  SigmaSpacing sigma_spacing = SigmaSpacing::kTimesteps;
  bool flow = false;                ///< of flow matching: x_t = (1 - sigma_t) x_0 + sigma_t epsilon, sigmas below 1
  double flow_shift = 1;            ///< of their sigmas: above 1, towards more noise
  bool whole_timesteps = false;     ///< sigmas that don't go by timesteps have theirs rounded, rather than cut off
  std::optional<double> sigma_min;  ///< of those sigmas; otherwise that of the first training timestep
  std::optional<double> sigma_max;  ///< or of the last one
  FinalSigmas final_sigmas = FinalSigmas::kZero;
  bool repeats_last_sigma = false;  ///< for kSigmaMin, those sigmas end with their last one, rather than sigma_min
  TimestepSpacing timestep_spacing = TimestepSpacing::kLinspace;
  std::int64_t steps_offset = 0;
  double lambda_min_clipped = -std::numeric_limits<double>::infinity();  ///< no timesteps with less than this lambda
};

/// Reads what both DPM-Solver and UniPC have.
/// @throws std::runtime_error for a value that isn't supported.
MultistepSolverOptions read_multistep_solver(const ConfigReader& config);

/// Multistep solvers after diffusers' `DPMSolverMultistepScheduler` and `UniPCMultistepScheduler`. They step from sigma
/// to sigma, though on samples x_t = alpha_t x_0 + sigma_t epsilon, which keep their variance; with flow sigmas,
/// alpha_t is 1 - sigma_t, and they don't.
class MultistepSolver : public SchedulerBase {
 public:
  NoiseProcess noise_process() const final {
    return options_.flow ? NoiseProcess::kFlow : NoiseProcess::kVariancePreserving;
  }
  torch::Tensor add_noise(const torch::Tensor& original_samples, const torch::Tensor& noise,
                          const torch::Tensor& timesteps) const final;
  torch::Tensor add_noise_at(const torch::Tensor& original_samples, const torch::Tensor& noise,
                             std::int64_t step_index) const final;

 protected:
  /// What the formulas know of a step's end: alpha_t, sigma_t and lambda_t = log(alpha_t / sigma_t), without
  /// dimensions.
  struct Level {
    torch::Tensor alpha;
    torch::Tensor sigma;
    torch::Tensor lambda;
  };

  /// @throws std::runtime_error for settings that don't go together.
  explicit MultistepSolver(const MultistepSolverOptions& options);

  Schedule make_schedule(std::int64_t num_inference_steps) const final;

  /// Where call `index` begins; that of the last call but one is where the last ends, with lambda infinite for sigma 0.
  Level level_at(std::int64_t index) const;

  /// Whether call `index` leads to the noise level that it begins with, as the last one of Karras' sigmas does with
  /// final_sigmas_type "sigma_min". It changes nothing then, but the formulas of order 3 would divide 0 by 0.
  bool stays(std::int64_t index) const;

  /// `outputs` and a newer one, without those that the solver's order has no use for.
  std::vector<torch::Tensor> append(const std::vector<torch::Tensor>& outputs, const torch::Tensor& output) const;

 private:
  /// alpha_t of a sigma as the schedule has it, of the image's scale or of a flow.
  torch::Tensor alpha_of(const torch::Tensor& sigma) const;

  /// `indices` of the run's calls, [1] or [B].
  torch::Tensor add_noise_of(const torch::Tensor& indices, const torch::Tensor& original_samples,
                             const torch::Tensor& noise) const;

  MultistepSolverOptions options_;
  torch::Tensor train_sigmas_;
  std::int64_t end_timestep_;  ///< timesteps are below it
};

}  // namespace deepcache
