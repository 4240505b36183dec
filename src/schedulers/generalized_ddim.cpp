#include <algorithm>
#include <cmath>
#include <utility>

#include "schedulers/registry.hpp"
#include "schedulers/scheduler_base.hpp"
#include "schedulers/timestep_spacing.hpp"

namespace deepcache {
namespace {

/// How the timesteps spread: evenly, or by squares, closest together near the image.
enum class SkipType { kUniform, kQuad };

/// DDIM (arXiv 2010.02502) as the code of its paper has it, and after that DeepCache's experiments with DDPM
/// (`generalized_steps`, functions/denoising.py of ermongroup/ddim). It differs from diffusers' `DDIMScheduler`: a step
/// leads to the run's next timestep, whichever that is, and the last one to the image; x_0 is never clipped, so that
/// use_clipped_model_output changes nothing; noise is drawn at every step, if eta is 0 too; betas are computed in
/// float64.
class GeneralizedDDIMScheduler final : public SchedulerBase {
 public:
  GeneralizedDDIMScheduler(const NoiseScheduleOptions& noise_schedule, SkipType skip_type)
      : SchedulerBase(noise_schedule), skip_type_(skip_type) {}

  std::string name() const override { return "generalized_ddim"; }
  bool has_ddim_options() const override { return true; }
  std::unique_ptr<Scheduler> clone() const override { return std::make_unique<GeneralizedDDIMScheduler>(*this); }

 protected:
  Schedule make_schedule(std::int64_t num_inference_steps) const override;
  torch::Tensor take_step(const torch::Tensor& model_output, std::int64_t step_index, const torch::Tensor& sample,
                          const StepOptions& options) override;

 private:
  SkipType skip_type_;
};

Schedule GeneralizedDDIMScheduler::make_schedule(std::int64_t num_inference_steps) const {
  std::vector<std::int64_t> timesteps;
  if (skip_type_ == SkipType::kUniform) {
    const auto stride = num_train_timesteps() / num_inference_steps;
    for (std::int64_t t = 0; t < num_train_timesteps(); t += stride) timesteps.push_back(t);  // may be more than asked
  } else {
    const double last = std::sqrt(static_cast<double>(num_train_timesteps()) * 0.8);
    for (const double root : linspace(0, last, num_inference_steps))  // near 0, several can be one
      timesteps.push_back(static_cast<std::int64_t>(root * root));
  }
  std::ranges::reverse(timesteps);
  return {.timesteps = torch::tensor(timesteps, torch::kInt64)};
}

torch::Tensor GeneralizedDDIMScheduler::take_step(const torch::Tensor& model_output, std::int64_t step_index,
                                                  const torch::Tensor& sample, const StepOptions& options) {
  const bool last = step_index + 1 == timesteps().size(0);
  const auto alpha = alphas_cumprod_[timestep_at(step_index)];
  const auto alpha_next = last ? torch::ones({}, torch::kFloat32) : alphas_cumprod_[timestep_at(step_index + 1)];

  // Eq. 9: predicted x_0.
  const auto original_sample = (sample - model_output * (1 - alpha).sqrt()) / alpha.sqrt();
  // Eq. 16: sigma_t(eta).
  const auto std_dev = options.eta * ((1 - alpha / alpha_next) * (1 - alpha_next) / (1 - alpha)).sqrt();
  // Eq. 12: x_0 scaled, plus noise, plus the direction pointing to x_t.
  const auto direction = ((1 - alpha_next) - std_dev.pow(2)).sqrt();
  return alpha_next.sqrt() * original_sample + std_dev * draw_noise(options, sample) + direction * model_output;
}

/// The betas of its code, computed in float64.
NoiseScheduleOptions read_betas(const ConfigReader& config) {
  auto options = read_noise_schedule(config);
  const bool scaled = options.beta_schedule == BetaSchedule::kScaledLinear;
  if (!options.trained_betas.empty() || (!scaled && options.beta_schedule != BetaSchedule::kLinear)) return options;
  const auto root = [scaled](double beta) { return scaled ? std::sqrt(beta) : beta; };
  auto betas = linspace(root(options.beta_start), root(options.beta_end), options.num_train_timesteps);
  if (scaled)
    for (auto& beta : betas) beta *= beta;
  options.trained_betas = std::move(betas);
  return options;
}

std::unique_ptr<Scheduler> make(const ConfigReader& config, SkipType skip_type) {
  config.require_false("rescale_betas_zero_snr");
  config.require_false("thresholding");
  config.choice("prediction_type", true, {{"epsilon", true}});
  return std::make_unique<GeneralizedDDIMScheduler>(read_betas(config), skip_type);
}

}  // namespace

std::unique_ptr<Scheduler> make_generalized_ddim(const ConfigReader& config) {
  return make(config, config.choice("skip_type", SkipType::kUniform,
                                    {{"uniform", SkipType::kUniform}, {"quad", SkipType::kQuad}}));
}

std::unique_ptr<Scheduler> make_generalized_ddim_quad(const ConfigReader& config) {
  return make(config, SkipType::kQuad);
}

}  // namespace deepcache
