#include "schedulers/prediction.hpp"
#include "schedulers/registry.hpp"
#include "schedulers/sample_clipping.hpp"
#include "schedulers/scheduler_base.hpp"
#include "schedulers/timestep_spacing.hpp"

namespace deepcache {
namespace {

struct DDIMOptions {
  NoiseScheduleOptions noise_schedule;
  SampleClipping clipping;
  PredictionType prediction_type = PredictionType::kEpsilon;
  TimestepSpacing timestep_spacing = TimestepSpacing::kLeading;
  std::int64_t steps_offset = 0;
  bool set_alpha_to_one = true;  ///< alpha_bar beyond the last timestep is 1, not alpha_bar_0
};

/// Denoising diffusion implicit models (Song et al., arXiv 2010.02502), after diffusers' `DDIMScheduler`.
class DDIMScheduler final : public SchedulerBase {
 public:
  explicit DDIMScheduler(const DDIMOptions& options)
      : SchedulerBase(options.noise_schedule),
        options_(options),
        final_alpha_cumprod_(options.set_alpha_to_one ? torch::ones({}, torch::kFloat32) : alphas_cumprod_[0]) {}

  std::string name() const override { return "DDIMScheduler"; }
  std::unique_ptr<Scheduler> clone() const override { return std::make_unique<DDIMScheduler>(*this); }
  bool has_ddim_options() const override { return true; }

 protected:
  Schedule make_schedule(std::int64_t num_inference_steps) const override {
    return {.timesteps = torch::tensor(space_timesteps(options_.timestep_spacing, num_train_timesteps(),
                                                       num_inference_steps, options_.steps_offset),
                                       torch::kInt64)};
  }

  torch::Tensor take_step(const torch::Tensor& model_output, std::int64_t step_index, const torch::Tensor& sample,
                          const StepOptions& options) override;

 private:
  DDIMOptions options_;
  torch::Tensor final_alpha_cumprod_;
};

torch::Tensor DDIMScheduler::take_step(const torch::Tensor& model_output, std::int64_t step_index,
                                       const torch::Tensor& sample, const StepOptions& options) {
  const auto timestep = timestep_at(step_index);
  const auto prev_timestep = timestep - timestep_stride();  // also where the spacing's next timestep is another
  const auto alpha_prod = alphas_cumprod_[timestep];
  const auto alpha_prod_prev = prev_timestep >= 0 ? alphas_cumprod_[prev_timestep] : final_alpha_cumprod_;
  const auto beta_prod = 1 - alpha_prod;
  const auto beta_prod_prev = 1 - alpha_prod_prev;

  const auto alpha = alpha_prod.pow(0.5);
  const auto sigma = beta_prod.pow(0.5);
  const auto original_sample = clip_sample(
      predict_original_sample(options_.prediction_type, model_output, sample, alpha, sigma), options_.clipping);
  // Clipping leaves the noise as it was predicted, unless asked otherwise, as GLIDE does (arXiv 2112.10741).
  const auto epsilon = options.use_clipped_model_output
                           ? (sample - alpha * original_sample) / sigma
                           : predict_epsilon(options_.prediction_type, model_output, sample, alpha, sigma);

  // Eq. 16: sigma_t(eta).
  const auto variance = (beta_prod_prev / beta_prod) * (1 - alpha_prod / alpha_prod_prev);
  const auto std_dev = options.eta * variance.pow(0.5);

  // Eq. 12: x_0 scaled, plus the direction pointing to x_t, plus noise.
  // Rounding can leave the direction's share just below 0 where all of it is noise (eta 1 at zero terminal SNR).
  const auto direction = (1 - alpha_prod_prev - std_dev.pow(2)).clamp_min(0).pow(0.5) * epsilon;
  const auto prev_sample = alpha_prod_prev.pow(0.5) * original_sample + direction;
  return options.eta > 0 ? prev_sample + std_dev * draw_noise(options, model_output) : prev_sample;
}

}  // namespace

std::unique_ptr<Scheduler> make_ddim(const ConfigReader& config) {
  DDIMOptions options;
  options.noise_schedule = read_noise_schedule(config);
  options.noise_schedule.rescale_betas_zero_snr = config.boolean("rescale_betas_zero_snr", false);
  options.clipping = read_sample_clipping(config, {.clip_sample = true});
  options.prediction_type = read_prediction_type(config);
  options.timestep_spacing = read_timestep_spacing(config, options.timestep_spacing);
  options.steps_offset = read_steps_offset(config);
  options.set_alpha_to_one = config.boolean("set_alpha_to_one", options.set_alpha_to_one);
  return std::make_unique<DDIMScheduler>(options);
}

}  // namespace deepcache
