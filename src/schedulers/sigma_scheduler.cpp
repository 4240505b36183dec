#include "schedulers/sigma_scheduler.hpp"

#include <cmath>
#include <limits>

#include "error.hpp"

namespace deepcache {
namespace {

/// Even in log sigma, from the highest training sigma to the lowest: one more than there are steps, of which the last
/// is where the last step leads.
std::vector<double> log_linear_sigmas(const torch::Tensor& train_sigmas, std::int64_t num_inference_steps) {
  const double log_max = std::log(train_sigmas[-1].item<float>());
  const double log_min = std::log(train_sigmas[0].item<float>());
  const auto sigmas = torch::linspace(log_max, log_min, num_inference_steps + 1, torch::kFloat32).exp();
  const auto* values = sigmas.const_data_ptr<float>();
  return {values, values + sigmas.numel()};
}

}  // namespace

SigmaScheduler::SigmaScheduler(const SigmaOptions& options) : SchedulerBase(options.noise_schedule), options_(options) {
  // Nearly nothing of the image instead of nothing, which would take an infinite sigma.
  if (options.noise_schedule.rescale_betas_zero_snr) alphas_cumprod_[-1].fill_(0x1p-24);
  train_sigmas_ = make_train_sigmas(alphas_cumprod_);
  timesteps_ = torch::empty({0}, torch::kFloat32);
}

Schedule SigmaScheduler::make_schedule(std::int64_t num_inference_steps) const {
  auto timesteps = space_float_timesteps(options_.timestep_spacing, num_train_timesteps(), num_inference_steps,
                                         options_.steps_offset);
  auto levels = options_.log_linear ? log_linear_sigmas(train_sigmas_, num_inference_steps)
                                    : interpolate(timesteps, train_sigmas_);
  if (options_.sigma_spacing != SigmaSpacing::kTimesteps) {
    levels = space_sigmas(options_.sigma_spacing, options_.sigma_max.value_or(levels.front()),
                          options_.sigma_min.value_or(levels.back()), num_inference_steps);
    const auto fractional = sigmas_to_timesteps(levels, train_sigmas_);
    timesteps.assign(fractional.begin(), fractional.end());
  }
  const auto final_sigma = options_.final_sigmas == FinalSigmas::kSigmaMin ? train_sigmas_[0].item<double>() : 0.0;
  auto sigmas = to_sigma_tensor(levels, final_sigma);
  if (!options_.continuous) return {torch::tensor(timesteps, torch::kFloat32), sigmas};

  // One logarithm at a time, as diffusers takes them: a vector's can round otherwise.
  std::vector<torch::Tensor> continuous;
  for (std::int64_t i = 0; i + 1 < sigmas.size(0); ++i) continuous.push_back(0.25 * sigmas[i].log());
  return {torch::stack(continuous), sigmas};
}

double SigmaScheduler::init_noise_sigma() const {
  const auto max_sigma = (sigmas().defined() ? sigmas() : train_sigmas_).max();
  if (options_.timestep_spacing != TimestepSpacing::kLeading) return max_sigma.item<double>();
  return (max_sigma.pow(2) + 1).pow(0.5).item<double>();
}

torch::Tensor SigmaScheduler::scale_model_input(const torch::Tensor& sample, std::int64_t step_index) const {
  return Scheduler::scale_model_input(sample, step_index) / (sigmas()[step_index].pow(2) + 1).pow(0.5);
}

torch::Tensor SigmaScheduler::add_noise(const torch::Tensor& original_samples, const torch::Tensor& noise,
                                        const torch::Tensor& timesteps) const {
  check_noising(original_samples, noise, timesteps, torch::kFloat32);
  return add_noise_of(indices_for_timesteps(timesteps), original_samples, noise);
}

torch::Tensor SigmaScheduler::add_noise_at(const torch::Tensor& original_samples, const torch::Tensor& noise,
                                           std::int64_t step_index) const {
  check_noising(original_samples, noise, timestep(step_index), torch::kFloat32);
  return add_noise_of(torch::tensor({step_index}), original_samples, noise);
}

torch::Tensor SigmaScheduler::add_noise_of(const torch::Tensor& indices, const torch::Tensor& original_samples,
                                           const torch::Tensor& noise) const {
  const auto levels = sigmas().to(original_samples.scalar_type()).index_select(0, indices);
  return original_samples + noise * broadcast_levels(levels, original_samples);
}

torch::Tensor SigmaScheduler::predict_original_sample(const torch::Tensor& model_output, const torch::Tensor& sample,
                                                      const torch::Tensor& sigma) const {
  switch (options_.prediction_type) {
    case PredictionType::kEpsilon:
      return sample - sigma * model_output;
    case PredictionType::kSample:
      return model_output;
    case PredictionType::kVPrediction: {
      // c_out v + c_skip x (arXiv 2206.00364, eq. 7, with sigma_data = 1).
      const auto variance = sigma.pow(2) + 1;
      return model_output * (-sigma / variance.pow(0.5)) + sample / variance;
    }
    case PredictionType::kFlow:
      break;
  }
  throw std::invalid_argument("unknown prediction type");
}

SigmaOptions read_sigma_options(const ConfigReader& config, const SigmaOptions& defaults,
                                const std::vector<NamedBetaSchedule>& further) {
  auto options = defaults;
  options.noise_schedule = read_noise_schedule(config, defaults.noise_schedule, further);
  options.timestep_spacing = read_timestep_spacing(config, defaults.timestep_spacing);
  options.steps_offset = read_steps_offset(config, defaults.steps_offset);
  return options;
}

void read_sigma_spacing(const ConfigReader& config, SigmaOptions& options) {
  constexpr double kLeastSigma = 1e-10;
  constexpr double kMost = std::numeric_limits<double>::max();
  options.sigma_spacing = read_sigma_spacing(config);
  options.sigma_min = config.optional_number("sigma_min", kLeastSigma, kMost);
  options.sigma_max = config.optional_number("sigma_max", kLeastSigma, kMost);
}

}  // namespace deepcache
