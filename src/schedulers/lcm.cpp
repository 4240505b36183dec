#include <cmath>
#include <limits>

#include "error.hpp"
#include "schedulers/prediction.hpp"
#include "schedulers/registry.hpp"
#include "schedulers/sample_clipping.hpp"
#include "schedulers/scheduler_base.hpp"

namespace deepcache {
namespace {

/// diffusers has set_alpha_to_one, timestep_spacing and steps_offset in this class too, without any effect.
struct LCMOptions {
  NoiseScheduleOptions noise_schedule{
      .beta_start = 0.00085, .beta_end = 0.012, .beta_schedule = BetaSchedule::kScaledLinear, .trained_betas = {}};
  SampleClipping clipping;
  PredictionType prediction_type = PredictionType::kEpsilon;
  std::int64_t original_inference_steps = 50;  ///< of the schedule that the model was distilled on
  double timestep_scaling = 10.0;              ///< of the timestep in the boundary conditions
};

/// Latent consistency models (Luo et al., arXiv 2310.04378, Algorithm 3), after diffusers' `LCMScheduler`.
class LCMScheduler final : public SchedulerBase {
 public:
  explicit LCMScheduler(const LCMOptions& options) : SchedulerBase(options.noise_schedule), options_(options) {}

  std::string name() const override { return "LCMScheduler"; }
  std::unique_ptr<Scheduler> clone() const override { return std::make_unique<LCMScheduler>(*this); }
  bool adds_noise(const StepOptions& /*options*/) const override { return true; }

 protected:
  Schedule make_schedule(std::int64_t num_inference_steps) const override;
  torch::Tensor take_step(const torch::Tensor& model_output, std::int64_t step_index, const torch::Tensor& sample,
                          const StepOptions& options) override;

 private:
  LCMOptions options_;
};

/// Nearly evenly spaced members of the schedule that the model was distilled on.
Schedule LCMScheduler::make_schedule(std::int64_t num_inference_steps) const {
  const auto original_steps = options_.original_inference_steps;
  check_argument(num_inference_steps <= original_steps,
                 "LCMScheduler can't take {} inference steps: they are chosen among the original_inference_steps, {}",
                 num_inference_steps, original_steps);
  const auto skip = num_train_timesteps() / original_steps;  // k, section 4.3
  const double stride = static_cast<double>(original_steps) / static_cast<double>(num_inference_steps);
  std::vector<std::int64_t> timesteps;
  for (std::int64_t i = 0; i < num_inference_steps; ++i) {
    const auto index = static_cast<std::int64_t>(std::floor(static_cast<double>(i) * stride));
    timesteps.push_back((original_steps - index) * skip - 1);
  }
  return {.timesteps = torch::tensor(timesteps, torch::kInt64), .sigmas = {}};
}

torch::Tensor LCMScheduler::take_step(const torch::Tensor& model_output, std::int64_t step_index,
                                      const torch::Tensor& sample, const StepOptions& options) {
  const auto alpha_prod = alphas_cumprod_[timestep_at(step_index)];
  const auto beta_prod = 1 - alpha_prod;
  const auto original_sample = clip_sample(
      predict_original_sample(options_.prediction_type, model_output, sample, alpha_prod.sqrt(), beta_prod.sqrt()),
      options_.clipping);

  // f(x, t) = c_skip x + c_out x_0 (section 4.1), which is x at t = 0 as consistency models must be (arXiv 2303.01469,
  // eq. 5); sigma_data is 0.5.
  constexpr double kSigmaDataSquared = 0.5 * 0.5;
  const auto scaled_timestep = timesteps()[step_index] * options_.timestep_scaling;
  const auto c_skip = kSigmaDataSquared / (scaled_timestep.pow(2) + kSigmaDataSquared);
  const auto c_out = scaled_timestep / (scaled_timestep.pow(2) + kSigmaDataSquared).pow(0.5);
  auto denoised = c_out * original_sample + c_skip * sample;

  // Algorithm 3: noised again to the next timestep, but for the last.
  if (step_index + 1 == timesteps().size(0)) return denoised;
  const auto alpha_prod_prev = alphas_cumprod_[timestep_at(step_index + 1)];
  return alpha_prod_prev.sqrt() * denoised + (1 - alpha_prod_prev).sqrt() * draw_noise(options, denoised);
}

}  // namespace

std::unique_ptr<Scheduler> make_lcm(const ConfigReader& config) {
  constexpr double kMost = std::numeric_limits<double>::max();
  LCMOptions options;
  options.noise_schedule = read_noise_schedule(config, options.noise_schedule);
  options.noise_schedule.rescale_betas_zero_snr = config.boolean("rescale_betas_zero_snr", false);
  options.clipping = read_sample_clipping(config, options.clipping);
  options.prediction_type = read_prediction_type(config);
  options.original_inference_steps =
      config.integer("original_inference_steps", options.original_inference_steps, 1, std::numeric_limits<int>::max());
  check_data(options.original_inference_steps <= options.noise_schedule.num_train_timesteps,
             "the setting \"original_inference_steps\" is {}; it must be at most the {} "
             "num_train_timesteps",
             options.original_inference_steps, options.noise_schedule.num_train_timesteps);
  options.timestep_scaling = config.number("timestep_scaling", options.timestep_scaling, 0.0, kMost);
  return std::make_unique<LCMScheduler>(options);
}

}  // namespace deepcache
