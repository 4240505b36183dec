#include <algorithm>
#include <numbers>

#include "schedulers/registry.hpp"
#include "schedulers/sigma_scheduler.hpp"

namespace deepcache {
namespace {

/// Euler steps, with noise added before each if s_churn asks for it (Karras et al., arXiv 2206.00364, Algorithm 2
/// without its correction), after diffusers' `EulerDiscreteScheduler`.
class EulerDiscreteScheduler final : public SigmaScheduler {
 public:
  explicit EulerDiscreteScheduler(const SigmaOptions& options) : SigmaScheduler(options) {}

  std::string name() const override { return "EulerDiscreteScheduler"; }
  std::unique_ptr<Scheduler> clone() const override { return std::make_unique<EulerDiscreteScheduler>(*this); }
  bool adds_noise(const StepOptions& options) const override { return options.s_churn > 0; }

 protected:
  bool has_churn_options() const override { return true; }
  torch::Tensor take_step(const torch::Tensor& model_output, std::int64_t step_index, const torch::Tensor& sample,
                          const StepOptions& options) override;

 private:
  /// gamma_i of Algorithm 2: how much to raise sigma.
  double churn(std::int64_t step_index, const StepOptions& options) const;
};

double EulerDiscreteScheduler::churn(std::int64_t step_index, const StepOptions& options) const {
  const float sigma = sigmas().const_data_ptr<float>()[step_index];
  if (sigma < static_cast<float>(options.s_tmin) || sigma > static_cast<float>(options.s_tmax)) return 0.0;
  return std::min(options.s_churn / static_cast<double>(sigmas().size(0) - 1), std::numbers::sqrt2 - 1);
}

torch::Tensor EulerDiscreteScheduler::take_step(const torch::Tensor& model_output, std::int64_t step_index,
                                                const torch::Tensor& sample, const StepOptions& options) {
  const auto sigma = sigmas()[step_index];
  const double gamma = churn(step_index, options);
  const auto sigma_hat = sigma * (gamma + 1);

  // In float32, but model outputs are scaled in their own dtype, as in diffusers.
  auto noised = sample.to(torch::kFloat32);
  if (gamma > 0) {
    const auto noise = draw_noise(options, model_output) * options.s_noise;
    noised = noised + noise * (sigma_hat.pow(2) - sigma.pow(2)).pow(0.5);
  }
  // The model has seen sigma. Only epsilon is taken for that of sigma_hat.
  const auto original_sample =
      predict_original_sample(model_output, noised, prediction_type() == PredictionType::kEpsilon ? sigma_hat : sigma);
  const auto derivative = (noised - original_sample) / sigma_hat;
  const auto dt = sigmas()[step_index + 1] - sigma_hat;
  return (noised + derivative * dt).to(model_output.scalar_type());
}

}  // namespace

std::unique_ptr<Scheduler> make_euler_discrete(const ConfigReader& config) {
  auto options = read_sigma_options(config);
  options.noise_schedule.rescale_betas_zero_snr = config.boolean("rescale_betas_zero_snr", false);
  options.prediction_type = config.choice("prediction_type", options.prediction_type,
                                          {{"epsilon", PredictionType::kEpsilon},
                                           {"sample", PredictionType::kSample},
                                           {"original_sample", PredictionType::kSample},
                                           {"v_prediction", PredictionType::kVPrediction}});
  options.log_linear = config.choice("interpolation_type", false, {{"linear", false}, {"log_linear", true}});
  read_sigma_spacing(config, options);
  // diffusers has continuous timesteps for velocities only, and goes on with discrete ones otherwise.
  const bool continuous = config.choice("timestep_type", false, {{"discrete", false}, {"continuous", true}});
  options.continuous = continuous && options.prediction_type == PredictionType::kVPrediction;
  options.final_sigmas = read_final_sigmas(config);
  return std::make_unique<EulerDiscreteScheduler>(options);
}

}  // namespace deepcache
