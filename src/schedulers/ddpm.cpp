#include <vector>

#include "schedulers/prediction.hpp"
#include "schedulers/registry.hpp"
#include "schedulers/sample_clipping.hpp"
#include "schedulers/scheduler_base.hpp"
#include "schedulers/timestep_spacing.hpp"

namespace deepcache {
namespace {

/// Which variance the noise of a step has. The learned ones are the second half of the model's output, as they are or
/// between the logarithms of the small and the large one (arXiv 2102.09672, eq. 15). `fixed_large_log` is refused:
/// diffusers takes the root of a negative logarithm there, all NaN.
enum class VarianceType { kFixedSmall, kFixedSmallLog, kFixedLarge, kLearned, kLearnedRange };

struct DDPMOptions {
  NoiseScheduleOptions noise_schedule;
  SampleClipping clipping{.clip_sample = true};
  PredictionType prediction_type = PredictionType::kEpsilon;
  VarianceType variance_type = VarianceType::kFixedSmall;
  TimestepSpacing timestep_spacing = TimestepSpacing::kLeading;
  std::int64_t steps_offset = 0;
};

/// Denoising diffusion probabilistic models (Ho et al., arXiv 2006.11239), after diffusers' `DDPMScheduler`.
class DDPMScheduler final : public SchedulerBase {
 public:
  explicit DDPMScheduler(const DDPMOptions& options) : SchedulerBase(options.noise_schedule), options_(options) {}

  std::string name() const override { return "DDPMScheduler"; }
  std::unique_ptr<Scheduler> clone() const override { return std::make_unique<DDPMScheduler>(*this); }
  bool adds_noise(const StepOptions& /*options*/) const override { return true; }
  std::int64_t outputs_a_channel() const override { return learns_variance() ? 2 : 1; }

 protected:
  Schedule make_schedule(std::int64_t num_inference_steps) const override {
    return {.timesteps = torch::tensor(space_timesteps(options_.timestep_spacing, num_train_timesteps(),
                                                       num_inference_steps, options_.steps_offset),
                                       torch::kInt64),
            .sigmas = {}};
  }

  torch::Tensor take_step(const torch::Tensor& model_output, std::int64_t step_index, const torch::Tensor& sample,
                          const StepOptions& options) override;

 private:
  bool learns_variance() const {
    return options_.variance_type == VarianceType::kLearned || options_.variance_type == VarianceType::kLearnedRange;
  }

  /// Standard deviation of a step's noise (section 3.2). `learned` is what the model says of it, if it does.
  torch::Tensor std_dev(const torch::Tensor& alpha_prod, const torch::Tensor& alpha_prod_prev,
                        const torch::Tensor& current_beta, const torch::Tensor& learned) const;

  DDPMOptions options_;
};

torch::Tensor DDPMScheduler::std_dev(const torch::Tensor& alpha_prod, const torch::Tensor& alpha_prod_prev,
                                     const torch::Tensor& current_beta, const torch::Tensor& learned) const {
  if (options_.variance_type == VarianceType::kLearned) return learned.pow(0.5);
  if (options_.variance_type == VarianceType::kFixedLarge) return current_beta.pow(0.5);
  // Eq. 7: beta-tilde_t, 0 where nothing is left to noise, kept above that for the logarithm.
  const auto variance = ((1 - alpha_prod_prev) / (1 - alpha_prod) * current_beta).clamp_min(1e-20);
  if (options_.variance_type == VarianceType::kLearnedRange) {
    const auto share = (learned + 1) / 2;
    return (0.5 * (share * current_beta.log() + (1 - share) * variance.log())).exp();
  }
  return options_.variance_type == VarianceType::kFixedSmallLog ? (0.5 * variance.log()).exp() : variance.pow(0.5);
}

torch::Tensor DDPMScheduler::take_step(const torch::Tensor& model_output, std::int64_t step_index,
                                       const torch::Tensor& sample, const StepOptions& options) {
  const auto halves = learns_variance() ? model_output.chunk(2, 1) : std::vector{model_output, torch::Tensor()};
  const auto& prediction = halves[0];
  const auto timestep = timestep_at(step_index);
  const bool last = step_index + 1 == timesteps().size(0);
  const auto alpha_prod = alphas_cumprod_[timestep];
  const auto alpha_prod_prev = last ? torch::ones({}, torch::kFloat32) : alphas_cumprod_[timestep_at(step_index + 1)];
  const auto beta_prod = 1 - alpha_prod;
  const auto beta_prod_prev = 1 - alpha_prod_prev;
  // Those of one step over all that lies between the two timesteps.
  const auto current_alpha = alpha_prod / alpha_prod_prev;
  const auto current_beta = 1 - current_alpha;

  const auto original_sample = clip_sample(
      predict_original_sample(options_.prediction_type, prediction, sample, alpha_prod.pow(0.5), beta_prod.pow(0.5)),
      options_.clipping);

  // Eq. 7: the mean of x_{t-1} given x_t and x_0.
  const auto original_sample_coeff = alpha_prod_prev.pow(0.5) * current_beta / beta_prod;
  const auto sample_coeff = current_alpha.pow(0.5) * beta_prod_prev / beta_prod;
  auto mean = original_sample_coeff * original_sample + sample_coeff * sample;
  // Only at timestep 0 is there no noise: where the last timestep is another, the last step has some too.
  if (timestep == 0) return mean;
  return mean + std_dev(alpha_prod, alpha_prod_prev, current_beta, halves[1]) * draw_noise(options, prediction);
}

}  // namespace

std::unique_ptr<Scheduler> make_ddpm(const ConfigReader& config) {
  DDPMOptions options;
  options.noise_schedule = read_noise_schedule(config, options.noise_schedule, {{"sigmoid", BetaSchedule::kSigmoid}});
  options.noise_schedule.rescale_betas_zero_snr = config.boolean("rescale_betas_zero_snr", false);
  options.clipping = read_sample_clipping(config, options.clipping);
  options.prediction_type = read_prediction_type(config);
  // Other classes save null, which does as fixed_small.
  if (config.holds("variance_type"))
    options.variance_type = config.choice("variance_type", options.variance_type,
                                          {{"fixed_small", VarianceType::kFixedSmall},
                                           {"fixed_small_log", VarianceType::kFixedSmallLog},
                                           {"fixed_large", VarianceType::kFixedLarge},
                                           {"learned", VarianceType::kLearned},
                                           {"learned_range", VarianceType::kLearnedRange}});
  options.timestep_spacing = read_timestep_spacing(config, options.timestep_spacing);
  options.steps_offset = read_steps_offset(config);
  return std::make_unique<DDPMScheduler>(options);
}

}  // namespace deepcache
