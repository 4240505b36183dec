#include "schedulers/multistep_solver.hpp"

#include <cmath>

#include "error.hpp"

namespace deepcache {
namespace {

/// lambda falls with the timestep: the first timestep with less than `lambda_min`, or else `num_train_timesteps`.
std::int64_t find_end_timestep(const torch::Tensor& alphas_cumprod, double lambda_min,
                               std::int64_t num_train_timesteps) {
  const auto lambdas = alphas_cumprod.sqrt().log() - (1 - alphas_cumprod).sqrt().log();
  const auto clipped = torch::searchsorted(lambdas.flip(0), lambda_min).item<std::int64_t>();
  const auto end = num_train_timesteps - clipped;
  check_data(end > 0, "the setting \"lambda_min_clipped\" is {}; no timestep has such a lambda", lambda_min);
  return end;
}

}  // namespace

MultistepSolverOptions read_multistep_solver(const ConfigReader& config) {
  constexpr double kLeastSigma = 1e-10;
  constexpr double kMost = std::numeric_limits<double>::max();
  MultistepSolverOptions options;
  options.noise_schedule = read_noise_schedule(config, options.noise_schedule);
  options.noise_schedule.rescale_betas_zero_snr = config.boolean("rescale_betas_zero_snr", false);
  options.clipping = read_sample_clipping(config, options.clipping);
  options.clipping.clip_sample = false;
  options.prediction_type = config.choice("prediction_type", options.prediction_type,
                                          {{"epsilon", PredictionType::kEpsilon},
                                           {"sample", PredictionType::kSample},
                                           {"v_prediction", PredictionType::kVPrediction},
                                           {"flow_prediction", PredictionType::kFlow}});
  options.solver_order = config.integer("solver_order", options.solver_order, 1, 3);
  options.lower_order_final = config.boolean("lower_order_final", options.lower_order_final);
  options.flow = config.boolean("use_flow_sigmas", options.flow);
  options.flow_shift = config.number("flow_shift", options.flow_shift, kLeastSigma, kMost);
  options.sigma_spacing = read_sigma_spacing(config);
  // Not theirs, but diffusers keeps the settings of other classes, and there it finds these.
  options.sigma_min = config.optional_number("sigma_min", kLeastSigma, kMost);
  options.sigma_max = config.optional_number("sigma_max", kLeastSigma, kMost);
  options.final_sigmas = read_final_sigmas(config);
  options.timestep_spacing = read_timestep_spacing(config, options.timestep_spacing);
  options.steps_offset = read_steps_offset(config);
  return options;
}

MultistepSolver::MultistepSolver(const MultistepSolverOptions& options)
    : SchedulerBase(options.noise_schedule), options_(options) {
  check_data(!options.flow || options.sigma_spacing == SigmaSpacing::kTimesteps,
             "the setting \"use_flow_sigmas\" can't be combined with other sigmas");
  check_data(options.flow || options.prediction_type != PredictionType::kFlow,
             "the setting \"prediction_type\" can be \"flow_prediction\" with \"use_flow_sigmas\" only");
  // Zero terminal SNR has an infinite sigma: diffusers keeps a little signal here.
  if (options.noise_schedule.rescale_betas_zero_snr) alphas_cumprod_[-1].fill_(0x1p-24);
  train_sigmas_ = make_train_sigmas(alphas_cumprod_);
  end_timestep_ = find_end_timestep(alphas_cumprod_, options.lambda_min_clipped, num_train_timesteps());
}

Schedule MultistepSolver::make_schedule(std::int64_t num_inference_steps) const {
  const auto lowest = train_sigmas_[0].item<double>();
  auto final_sigma = lowest;
  std::vector<double> sigmas;
  std::vector<std::int64_t> timesteps;
  if (options_.flow) {
    const auto train = static_cast<double>(num_train_timesteps());
    const auto alphas = linspace(1, 1 / train, num_inference_steps + 1);
    for (std::size_t i = alphas.size() - 1; i > 0; --i) {
      const auto sigma = 1 - alphas[i];
      sigmas.push_back(options_.flow_shift * sigma / (1 + (options_.flow_shift - 1) * sigma));
      timesteps.push_back(static_cast<std::int64_t>(sigmas.back() * train));
    }
    if (options_.repeats_last_sigma) final_sigma = sigmas.back();
  } else if (options_.sigma_spacing == SigmaSpacing::kTimesteps) {
    timesteps = space_solver_timesteps(options_.timestep_spacing, num_train_timesteps(), end_timestep_,
                                       num_inference_steps, options_.steps_offset);
    sigmas = interpolate({timesteps.begin(), timesteps.end()}, train_sigmas_);
  } else {
    const auto highest = train_sigmas_[-1].item<double>();
    sigmas = space_sigmas(options_.sigma_spacing, options_.sigma_max.value_or(highest),
                          options_.sigma_min.value_or(lowest), num_inference_steps);
    if (options_.repeats_last_sigma) final_sigma = sigmas.back();
    for (const double timestep : sigmas_to_timesteps(sigmas, train_sigmas_))
      timesteps.push_back(static_cast<std::int64_t>(options_.whole_timesteps ? std::nearbyint(timestep) : timestep));
  }
  auto sigma_tensor = to_sigma_tensor(sigmas, options_.final_sigmas == FinalSigmas::kZero ? 0.0 : final_sigma);
  const auto begins = sigma_tensor.slice(0, 0, -1);
  // With two beginnings alike the multistep formulas divide by 0.
  check_argument(begins.diff().lt(0).all().item<bool>(),
                 "{} can't take {} inference steps with these settings: two of them would begin at one noise level",
                 name(), num_inference_steps);
  return {.timesteps = torch::tensor(timesteps, torch::kInt64), .sigmas = std::move(sigma_tensor)};
}

MultistepSolver::Level MultistepSolver::level_at(std::int64_t index) const {
  const auto ratio = sigmas()[index];
  Level level;
  level.alpha = alpha_of(ratio);
  level.sigma = options_.flow ? ratio : ratio * level.alpha;
  level.lambda = level.alpha.log() - level.sigma.log();
  return level;
}

torch::Tensor MultistepSolver::alpha_of(const torch::Tensor& sigma) const {
  return options_.flow ? 1 - sigma : 1 / (sigma.pow(2) + 1).pow(0.5);
}

bool MultistepSolver::stays(std::int64_t index) const {
  return sigmas()[index].item<float>() == sigmas()[index + 1].item<float>();
}

std::vector<torch::Tensor> MultistepSolver::append(const std::vector<torch::Tensor>& outputs,
                                                   const torch::Tensor& output) const {
  const bool full = std::ssize(outputs) == options_.solver_order;
  std::vector<torch::Tensor> appended(outputs.begin() + (full ? 1 : 0), outputs.end());
  appended.push_back(output);
  return appended;
}

torch::Tensor MultistepSolver::add_noise(const torch::Tensor& original_samples, const torch::Tensor& noise,
                                         const torch::Tensor& timesteps) const {
  check_noising(original_samples, noise, timesteps, torch::kInt64);
  return add_noise_of(indices_for_timesteps(timesteps), original_samples, noise);
}

torch::Tensor MultistepSolver::add_noise_at(const torch::Tensor& original_samples, const torch::Tensor& noise,
                                            std::int64_t step_index) const {
  check_noising(original_samples, noise, timestep(step_index), torch::kInt64);
  return add_noise_of(torch::tensor({step_index}), original_samples, noise);
}

torch::Tensor MultistepSolver::add_noise_of(const torch::Tensor& indices, const torch::Tensor& original_samples,
                                            const torch::Tensor& noise) const {
  // Rounded to the samples' dtype first, as diffusers does.
  const auto ratio = sigmas().to(original_samples.scalar_type()).index_select(0, indices);
  const auto alpha = alpha_of(ratio);
  return broadcast_levels(alpha, original_samples) * original_samples +
         broadcast_levels(options_.flow ? ratio : ratio * alpha, original_samples) * noise;
}

}  // namespace deepcache
