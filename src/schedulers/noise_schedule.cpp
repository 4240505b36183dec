#include "schedulers/noise_schedule.hpp"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "error.hpp"

namespace deepcache {
namespace {

constexpr std::int64_t kMostTrainTimesteps = 1'000'000;

/// alpha_bar at `time` in [0, 1] (arXiv 2102.09672, eq. 17).
double cosine_alpha_bar(double time) {
  const double root = std::cos((time + 0.008) / 1.008 * std::numbers::pi / 2);
  return root * root;
}

/// The one of diffusers' "exp", which cites no paper.
double exp_alpha_bar(double time) {
  return std::exp(time * -12.0);
}

torch::Tensor betas_for_alpha_bar(std::int64_t count, double (*alpha_bar)(double time)) {
  constexpr double kMaxBeta = 0.999;  // the last ones would be 1, a singularity
  const auto steps = static_cast<double>(count);
  std::vector<double> betas;
  betas.reserve(static_cast<std::size_t>(count));
  for (std::int64_t i = 0; i < count; ++i) {
    const double before = alpha_bar(static_cast<double>(i) / steps);
    const double after = alpha_bar(static_cast<double>(i + 1) / steps);
    betas.push_back(std::min(1 - after / before, kMaxBeta));
  }
  return torch::tensor(betas, torch::kFloat64).to(torch::kFloat32);
}

}  // namespace

NoiseScheduleOptions read_noise_schedule(const ConfigReader& config, const NoiseScheduleOptions& defaults,
                                         const std::vector<NamedBetaSchedule>& further) {
  NoiseScheduleOptions options;
  options.num_train_timesteps =
      config.integer("num_train_timesteps", defaults.num_train_timesteps, 1, kMostTrainTimesteps);
  options.beta_start = config.number("beta_start", defaults.beta_start, 0.0, 1.0);
  options.beta_end = config.number("beta_end", defaults.beta_end, 0.0, 1.0);
  std::vector<NamedBetaSchedule> schedules{{"linear", BetaSchedule::kLinear},
                                           {"scaled_linear", BetaSchedule::kScaledLinear},
                                           {"squaredcos_cap_v2", BetaSchedule::kSquaredcosCapV2}};
  schedules.insert(schedules.end(), further.begin(), further.end());
  options.beta_schedule = config.choice("beta_schedule", defaults.beta_schedule, schedules);
  options.trained_betas = config.numbers("trained_betas", 0.0, 1.0);
  const auto trained = static_cast<std::int64_t>(options.trained_betas.size());
  check_data(trained == 0 || trained >= options.num_train_timesteps,
             "the setting \"trained_betas\" has {} values; it must have one for each of the {} "
             "num_train_timesteps",
             trained, options.num_train_timesteps);
  return options;
}

torch::Tensor make_betas(const NoiseScheduleOptions& options) {
  if (!options.trained_betas.empty()) return torch::tensor(options.trained_betas, torch::kFloat64).to(torch::kFloat32);
  switch (options.beta_schedule) {
    case BetaSchedule::kLinear:
      return torch::linspace(options.beta_start, options.beta_end, options.num_train_timesteps, torch::kFloat32);
    case BetaSchedule::kScaledLinear:
      return torch::linspace(std::pow(options.beta_start, 0.5), std::pow(options.beta_end, 0.5),
                             options.num_train_timesteps, torch::kFloat32)
          .pow(2);
    case BetaSchedule::kSquaredcosCapV2:
      return betas_for_alpha_bar(options.num_train_timesteps, cosine_alpha_bar);
    case BetaSchedule::kExp:
      return betas_for_alpha_bar(options.num_train_timesteps, exp_alpha_bar);
    case BetaSchedule::kSigmoid:
      return torch::linspace(-6, 6, options.num_train_timesteps, torch::kFloat32).sigmoid() *
                 (options.beta_end - options.beta_start) +
             options.beta_start;
  }
  throw std::invalid_argument("unknown beta schedule");
}

torch::Tensor rescale_zero_terminal_snr(const torch::Tensor& betas) {
  auto alphas_bar_sqrt = torch::cumprod(1.0 - betas, 0).sqrt();
  const auto first = alphas_bar_sqrt[0].clone();
  const auto last = alphas_bar_sqrt[-1].clone();
  // Shift the last value to zero, then scale the first back to where it was.
  alphas_bar_sqrt -= last;
  alphas_bar_sqrt *= first / (first - last);
  // Undo the root and the cumulative product.
  const auto alphas_bar = alphas_bar_sqrt.pow(2);
  const auto alphas = alphas_bar.slice(0, 1) / alphas_bar.slice(0, 0, -1);
  return 1 - torch::cat({alphas_bar.slice(0, 0, 1), alphas});
}

torch::Tensor make_alphas(const NoiseScheduleOptions& options) {
  const auto betas = make_betas(options);
  return 1.0 - (options.rescale_betas_zero_snr ? rescale_zero_terminal_snr(betas) : betas);
}

torch::Tensor make_alphas_cumprod(const NoiseScheduleOptions& options) {
  return torch::cumprod(make_alphas(options), 0);
}

void check_noising(const torch::Tensor& original_samples, const torch::Tensor& noise, const torch::Tensor& timesteps,
                   torch::ScalarType timesteps_dtype) {
  check_argument(original_samples.defined() && noise.defined() && timesteps.defined(),
                 "samples, noise and timesteps must each hold a tensor");
  check_argument(original_samples.dim() > 0 && original_samples.is_floating_point(),
                 "the samples to add noise to must be floating point and have a batch dimension");
  check_argument(noise.sizes() == original_samples.sizes() && noise.dtype() == original_samples.dtype() &&
                     noise.device() == original_samples.device(),
                 "the noise must have the shape, dtype and device of the samples, {}; it is {}",
                 c10::str(original_samples.sizes(), " ", original_samples.dtype(), " ", original_samples.device()),
                 c10::str(noise.sizes(), " ", noise.dtype(), " ", noise.device()));
  const auto batch = original_samples.size(0);
  check_argument(timesteps.dim() == 1 && timesteps.scalar_type() == timesteps_dtype &&
                     (timesteps.size(0) == batch || timesteps.size(0) == 1),
                 "timesteps must be {} [{}] or [1], not {}", timesteps_dtype == torch::kInt64 ? "int64" : "float32",
                 batch, c10::str(timesteps.dtype(), " ", timesteps.sizes()));
}

torch::Tensor broadcast_levels(const torch::Tensor& levels, const torch::Tensor& samples) {
  std::vector<std::int64_t> sizes(static_cast<std::size_t>(samples.dim()), 1);
  sizes[0] = -1;
  return levels.view(sizes).to(samples.device(), /*non_blocking=*/true);
}

torch::Tensor add_noise(const torch::Tensor& alphas_cumprod, const torch::Tensor& original_samples,
                        const torch::Tensor& noise, const torch::Tensor& timesteps) {
  check_noising(original_samples, noise, timesteps, torch::kInt64);
  const auto levels = timesteps.cpu();
  check_argument(levels.ge(0).logical_and(levels.lt(alphas_cumprod.size(0))).all().item<bool>(),
                 "timesteps must be from 0 to {}", alphas_cumprod.size(0) - 1);

  // Rounded to the samples' dtype before the roots, as diffusers does: half types need it to agree.
  const auto alpha_prod = alphas_cumprod.to(original_samples.scalar_type()).index_select(0, levels);
  return broadcast_levels(alpha_prod.pow(0.5), original_samples) * original_samples +
         broadcast_levels((1 - alpha_prod).pow(0.5), original_samples) * noise;
}

}  // namespace deepcache
