#include <cmath>

#include "error.hpp"
#include "schedulers/registry.hpp"
#include "schedulers/scheduler_base.hpp"

namespace deepcache {
namespace {

/// alpha_bar_t as CompVis has it: float64 up to the end, where diffusers has float32 throughout.
torch::Tensor precise_alphas_cumprod(const NoiseScheduleOptions& options) {
  const bool scaled = options.beta_schedule == BetaSchedule::kScaledLinear;
  const double exponent = scaled ? 0.5 : 1.0;
  const auto betas = torch::linspace(std::pow(options.beta_start, exponent), std::pow(options.beta_end, exponent),
                                     options.num_train_timesteps, torch::kFloat64)
                         .pow(scaled ? 2 : 1);
  return torch::cumprod(1 - betas, 0).to(torch::kFloat32);
}

/// The timestep that a run of so many steps begins with: the last of 1, 1 + stride, 1 + 2 stride, ...
std::int64_t first_timestep(std::int64_t num_train_timesteps, std::int64_t num_inference_steps) {
  const auto stride = num_train_timesteps / num_inference_steps;
  return (num_train_timesteps - 1) / stride * stride + 1;
}

/// Denoising diffusion implicit models (Song et al., arXiv 2010.02502), after `DDIMSampler` of CompVis's
/// latent-diffusion (ldm/models/diffusion/ddim.py), with its "uniform" timesteps. What differs from diffusers' DDIM:
/// the precision of the noise schedule, the number of steps, which is rounded up to what the stride gives (150 becomes
/// 167), that nothing is clipped (use_clipped_model_output changes nothing), and that each step draws noise even if eta
/// is 0, so that what is drawn after a run is the same as there.
class CompVisDDIMScheduler final : public SchedulerBase {
 public:
  explicit CompVisDDIMScheduler(const NoiseScheduleOptions& options) : SchedulerBase(options) {
    alphas_cumprod_ = precise_alphas_cumprod(options);
  }

  std::string name() const override { return "CompVisDDIMScheduler"; }
  bool has_ddim_options() const override { return true; }
  std::unique_ptr<Scheduler> clone() const override { return std::make_unique<CompVisDDIMScheduler>(*this); }

 protected:
  Schedule make_schedule(std::int64_t num_inference_steps) const override;
  torch::Tensor take_step(const torch::Tensor& model_output, std::int64_t step_index, const torch::Tensor& sample,
                          const StepOptions& options) override;
};

Schedule CompVisDDIMScheduler::make_schedule(std::int64_t num_inference_steps) const {
  const auto train = num_train_timesteps();
  const auto first = first_timestep(train, num_inference_steps);
  if (first >= train) {
    auto fewer = num_inference_steps - 1;
    while (fewer > 0 && first_timestep(train, fewer) >= train) --fewer;
    check_argument(false,
                   "CompVisDDIMScheduler can't make {} steps: it would begin at timestep {}, and the last is {}; "
                   "the next number below that it can make is {}",
                   num_inference_steps, first, train - 1, fewer);
  }
  return {.timesteps = torch::arange(first, 0, -(train / num_inference_steps), torch::kInt64)};
}

torch::Tensor CompVisDDIMScheduler::take_step(const torch::Tensor& model_output, std::int64_t step_index,
                                              const torch::Tensor& sample, const StepOptions& options) {
  const auto last = timesteps().size(0) - 1;
  const auto alpha_prod = alphas_cumprod_[timestep_at(step_index)];
  const auto alpha_prod_prev = alphas_cumprod_[step_index < last ? timestep_at(step_index + 1) : 0];

  // Eq. 16: sigma_t(eta), in float64 where the original has numpy's.
  const auto before = alpha_prod_prev.to(torch::kFloat64);
  const auto variance = (1 - before) / (1 - alpha_prod) * (1 - alpha_prod / before);
  const auto std_dev = (options.eta * variance.sqrt()).to(torch::kFloat32);

  // Eq. 12: x_0 scaled, plus the direction pointing to x_t, plus noise; in float32, which the original's tensors are in
  // where the network runs in half precision.
  const auto x = sample.to(torch::kFloat32);
  const auto epsilon = model_output.to(torch::kFloat32);
  const auto original_sample = (x - (1 - alpha_prod).sqrt() * epsilon) / alpha_prod.sqrt();
  const auto direction = (1 - alpha_prod_prev - std_dev.pow(2)).sqrt() * epsilon;
  auto prev_sample = alpha_prod_prev.sqrt() * original_sample + direction;
  if (options.eta > 0 || options.noise != nullptr) prev_sample = prev_sample + std_dev * draw_noise(options, x);
  return prev_sample.to(sample.scalar_type());
}

}  // namespace

std::unique_ptr<Scheduler> make_compvis_ddim(const ConfigReader& config) {
  NoiseScheduleOptions defaults;
  defaults.beta_start = 0.0015;  // of LDM-4-G
  defaults.beta_end = 0.0195;
  defaults.beta_schedule = BetaSchedule::kScaledLinear;
  const auto options = read_noise_schedule(config, defaults);
  check_data(options.trained_betas.empty() && (options.beta_schedule == BetaSchedule::kLinear ||
                                               options.beta_schedule == BetaSchedule::kScaledLinear),
             "the setting \"beta_schedule\" of CompVisDDIMScheduler must be linear or scaled_linear, without "
             "\"trained_betas\"");
  config.require_false("rescale_betas_zero_snr");
  config.require_false("thresholding");
  config.choice("prediction_type", 0, {{"epsilon", 0}});
  return std::make_unique<CompVisDDIMScheduler>(options);
}

}  // namespace deepcache
