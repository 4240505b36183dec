#include "schedulers/sigma_schedule.hpp"

#include <algorithm>
#include <array>
#include <boost/math/special_functions/beta.hpp>
#include <cmath>
#include <span>
#include <string_view>
#include <utility>

#include "error.hpp"
#include "schedulers/timestep_spacing.hpp"

namespace deepcache {
namespace {

/// Karras et al., arXiv 2206.00364, eq. 5.
std::vector<double> karras_sigmas(double sigma_max, double sigma_min, std::int64_t count) {
  constexpr double kRho = 7.0;
  const double min_inv_rho = std::pow(sigma_min, 1 / kRho);
  const double max_inv_rho = std::pow(sigma_max, 1 / kRho);
  auto sigmas = linspace(0, 1, count);
  for (auto& ramp : sigmas) ramp = std::pow(max_inv_rho + ramp * (min_inv_rho - max_inv_rho), kRho);
  return sigmas;
}

std::vector<double> exponential_sigmas(double sigma_max, double sigma_min, std::int64_t count) {
  auto sigmas = linspace(std::log(sigma_max), std::log(sigma_min), count);
  for (auto& log_sigma : sigmas) log_sigma = std::exp(log_sigma);
  return sigmas;
}

/// Evenly spaced in lambda (Lu et al., arXiv 2206.00927, section 3.4): as the exponential ones but for the rounding,
/// for diffusers takes float32 logarithms here.
std::vector<double> lu_sigmas(double sigma_max, double sigma_min, std::int64_t count) {
  const double log_max = std::log(static_cast<float>(sigma_max));
  const double log_min = std::log(static_cast<float>(sigma_min));
  auto sigmas = linspace(0, 1, count);
  for (auto& ramp : sigmas) ramp = std::exp(log_max + ramp * (log_min - log_max));
  return sigmas;
}

/// At the quantiles of a Beta distribution, so that most steps lie near the two ends (Lee et al., arXiv 2407.12173).
std::vector<double> beta_sigmas(double sigma_max, double sigma_min, std::int64_t count) {
  constexpr double kAlpha = 0.6;
  constexpr double kBeta = 0.6;
  auto sigmas = linspace(0, 1, count);
  for (auto& ramp : sigmas)
    ramp = sigma_min + boost::math::ibeta_inv(kAlpha, kBeta, 1 - ramp) * (sigma_max - sigma_min);
  return sigmas;
}

/// The timestep of one sigma. `log_sigmas` are float32, and so is the difference of two, as NumPy computes it.
double sigma_to_timestep(double sigma, std::span<const float> log_sigmas) {
  constexpr double kLeastSigma = 1e-10;
  const double log_sigma = std::log(std::max(sigma, kLeastSigma));
  if (log_sigmas.size() == 1) return 0.0;
  auto low_index = log_sigmas.size() - 2;
  while (low_index > 0 && log_sigmas[low_index] > log_sigma) --low_index;
  const float low = log_sigmas[low_index];
  const float high = log_sigmas[low_index + 1];
  // Where the outermost two are equal, diffusers divides 0 by 0.
  const double weight = low == high ? 0.0 : std::clamp((low - log_sigma) / (low - high), 0.0, 1.0);
  return (1 - weight) * static_cast<double>(low_index) + weight * static_cast<double>(low_index + 1);
}

}  // namespace

SigmaSpacing read_sigma_spacing(const ConfigReader& config) {
  constexpr std::array<std::pair<std::string_view, SigmaSpacing>, 3> kSettings = {{
      {"use_karras_sigmas", SigmaSpacing::kKarras},
      {"use_exponential_sigmas", SigmaSpacing::kExponential},
      {"use_beta_sigmas", SigmaSpacing::kBeta},
  }};
  auto spacing = SigmaSpacing::kTimesteps;
  std::string_view chosen;
  for (const auto& [setting, chosen_spacing] : kSettings) {
    if (!config.boolean(setting, false)) continue;
    check_data(chosen.empty(), "the settings \"{}\" and \"{}\" are both true; only one can be", chosen, setting);
    chosen = setting;
    spacing = chosen_spacing;
  }
  return spacing;
}

FinalSigmas read_final_sigmas(const ConfigReader& config) {
  return config.choice("final_sigmas_type", FinalSigmas::kZero,
                       {{"zero", FinalSigmas::kZero}, {"sigma_min", FinalSigmas::kSigmaMin}});
}

torch::Tensor make_train_sigmas(const torch::Tensor& alphas_cumprod) {
  return ((1 - alphas_cumprod) / alphas_cumprod).pow(0.5);
}

std::vector<double> interpolate(const std::vector<float>& points, const torch::Tensor& values) {
  const std::span known(values.const_data_ptr<float>(), static_cast<std::size_t>(values.numel()));
  std::vector<double> results;
  results.reserve(points.size());
  for (const double point : points) {
    const double low = std::floor(std::clamp(point, 0.0, static_cast<double>(known.size() - 1)));
    const auto index = static_cast<std::size_t>(low);
    const double at_low = known[index];
    if (point <= low || index + 1 == known.size())
      results.push_back(at_low);
    else
      results.push_back((known[index + 1] - at_low) * (point - low) + at_low);
  }
  return results;
}

std::vector<double> space_sigmas(SigmaSpacing spacing, double sigma_max, double sigma_min, std::int64_t count) {
  check_argument(sigma_min > 0 && sigma_min <= sigma_max && std::isfinite(sigma_max),
                 "the scheduler's sigmas can't fall from {} to {}: the lowest must be above 0 and at most the highest",
                 sigma_max, sigma_min);
  switch (spacing) {
    case SigmaSpacing::kKarras:
      return karras_sigmas(sigma_max, sigma_min, count);
    case SigmaSpacing::kExponential:
      return exponential_sigmas(sigma_max, sigma_min, count);
    case SigmaSpacing::kBeta:
      return beta_sigmas(sigma_max, sigma_min, count);
    case SigmaSpacing::kLu:
      return lu_sigmas(sigma_max, sigma_min, count);
    case SigmaSpacing::kTimesteps:
      break;
  }
  throw std::invalid_argument("these sigmas go by timesteps");
}

std::vector<double> sigmas_to_timesteps(const std::vector<double>& sigmas, const torch::Tensor& train_sigmas) {
  std::vector<float> log_sigmas;
  const std::span train(train_sigmas.const_data_ptr<float>(), static_cast<std::size_t>(train_sigmas.numel()));
  std::ranges::transform(train, std::back_inserter(log_sigmas), [](float sigma) { return std::log(sigma); });
  std::vector<double> timesteps;
  std::ranges::transform(sigmas, std::back_inserter(timesteps),
                         [&](double sigma) { return sigma_to_timestep(sigma, log_sigmas); });
  return timesteps;
}

torch::Tensor to_sigma_tensor(const std::vector<double>& sigmas, double final_sigma) {
  for (const double sigma : sigmas)
    check_argument(std::isfinite(sigma) && sigma > 0,
                   "the scheduler's noise schedule has a sigma of {} in this run; all must be finite and above 0",
                   sigma);
  auto values = sigmas;
  values.push_back(final_sigma);
  return torch::tensor(values, torch::kFloat64).to(torch::kFloat32);
}

}  // namespace deepcache
