#include "schedulers/registry.hpp"
#include "schedulers/sigma_scheduler.hpp"

namespace deepcache {
namespace {

/// Ancestral sampling with Euler steps, after diffusers' `EulerAncestralDiscreteScheduler`: each step goes down further
/// than to the next sigma, and noise leads back up to it.
class EulerAncestralDiscreteScheduler final : public SigmaScheduler {
 public:
  explicit EulerAncestralDiscreteScheduler(const SigmaOptions& options) : SigmaScheduler(options) {}

  std::string name() const override { return "EulerAncestralDiscreteScheduler"; }
  std::unique_ptr<Scheduler> clone() const override { return std::make_unique<EulerAncestralDiscreteScheduler>(*this); }
  bool adds_noise(const StepOptions& /*options*/) const override { return true; }

 protected:
  torch::Tensor take_step(const torch::Tensor& model_output, std::int64_t step_index, const torch::Tensor& sample,
                          const StepOptions& options) override;
};

torch::Tensor EulerAncestralDiscreteScheduler::take_step(const torch::Tensor& model_output, std::int64_t step_index,
                                                         const torch::Tensor& sample, const StepOptions& options) {
  const auto sigma_from = sigmas()[step_index];
  const auto sigma_to = sigmas()[step_index + 1];
  // The variance of DDPM's step, DDIM's eq. 16 (arXiv 2010.02502) at eta 1, where samples keep the image's scale.
  // diffusers takes the roots of both differences where they are below 0, and all is NaN: the first where a sigma rises
  // (after the 4096 that stands for zero terminal SNR), the second by rounding (where a sigma falls to its 1/10000th).
  const auto variance = sigma_to.pow(2) * (sigma_from.pow(2) - sigma_to.pow(2)) / sigma_from.pow(2);
  const auto sigma_up = variance.clamp_min(0).pow(0.5);
  const auto sigma_down = (sigma_to.pow(2) - sigma_up.pow(2)).clamp_min(0).pow(0.5);

  const auto noised = sample.to(torch::kFloat32);
  const auto derivative = (noised - predict_original_sample(model_output, noised, sigma_from)) / sigma_from;
  const auto dt = sigma_down - sigma_from;
  // Drawn in the last step too, where sigma_up is 0.
  const auto prev_sample = noised + derivative * dt + draw_noise(options, model_output) * sigma_up;
  return prev_sample.to(model_output.scalar_type());
}

}  // namespace

std::unique_ptr<Scheduler> make_euler_ancestral_discrete(const ConfigReader& config) {
  auto options = read_sigma_options(config);
  options.noise_schedule.rescale_betas_zero_snr = config.boolean("rescale_betas_zero_snr", false);
  options.prediction_type =
      config.choice("prediction_type", options.prediction_type,
                    {{"epsilon", PredictionType::kEpsilon}, {"v_prediction", PredictionType::kVPrediction}});
  return std::make_unique<EulerAncestralDiscreteScheduler>(options);
}

}  // namespace deepcache
