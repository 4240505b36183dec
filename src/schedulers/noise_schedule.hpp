#pragma once

#include <torch/types.h>

#include <cstdint>
#include <string_view>
#include <utility>
#include <vector>

#include "io/config_reader.hpp"

namespace deepcache {

enum class BetaSchedule { kLinear, kScaledLinear, kSquaredcosCapV2, kSigmoid, kExp };

/// The noise process that a model was trained on. Defaults are those that most scheduler classes of diffusers share.
struct NoiseScheduleOptions {
  std::int64_t num_train_timesteps = 1000;
  double beta_start = 0.0001;
  double beta_end = 0.02;
  BetaSchedule beta_schedule = BetaSchedule::kLinear;
  std::vector<double> trained_betas;    ///< used instead of the three above unless empty
  bool rescale_betas_zero_snr = false;  ///< read by the classes that have it
};

/// A value of `beta_schedule`, such as {"exp", BetaSchedule::kExp}.
using NamedBetaSchedule = std::pair<std::string_view, BetaSchedule>;

/// Reads all but `rescale_betas_zero_snr`, which not every class of diffusers has.
/// @param further  the schedules that this class has beside those that all have: linear, scaled_linear and
///                 squaredcos_cap_v2
/// @throws std::runtime_error for a value that isn't supported, or if there are fewer trained betas than timesteps.
NoiseScheduleOptions read_noise_schedule(const ConfigReader& config, const NoiseScheduleOptions& defaults = {},
                                         const std::vector<NamedBetaSchedule>& further = {});

/// Variance of the noise that each training timestep adds: float32 [num_train_timesteps] on the CPU, or as many as
/// there are trained betas.
torch::Tensor make_betas(const NoiseScheduleOptions& options);

/// Betas that leave nothing of the image in the last timestep (arXiv 2305.08891, Algorithm 1).
torch::Tensor rescale_zero_terminal_snr(const torch::Tensor& betas);

/// alpha_t = 1 - beta_t, the share of the variance that each training timestep leaves: float32, of the length of the
/// betas.
torch::Tensor make_alphas(const NoiseScheduleOptions& options);

/// alpha_bar_t, the share of the image's variance that is left at each timestep: float32, of the length of the betas.
torch::Tensor make_alphas_cumprod(const NoiseScheduleOptions& options);

/// Checks what `Scheduler::add_noise` is given, `timesteps` to be of `timesteps_dtype`.
/// @throws std::invalid_argument if the tensors don't fit each other.
void check_noising(const torch::Tensor& original_samples, const torch::Tensor& noise, const torch::Tensor& timesteps,
                   torch::ScalarType timesteps_dtype);

/// `levels`, [B] or [1], with the dimensions of `samples`, [B, ...], on their device.
torch::Tensor broadcast_levels(const torch::Tensor& levels, const torch::Tensor& samples);

/// Original samples noised to the levels of `timesteps`, int64 [B] or [1] (arXiv 2006.11239, eq. 4).
/// @throws std::invalid_argument if the tensors don't fit each other, or for a timestep outside `alphas_cumprod`.
torch::Tensor add_noise(const torch::Tensor& alphas_cumprod, const torch::Tensor& original_samples,
                        const torch::Tensor& noise, const torch::Tensor& timesteps);

}  // namespace deepcache
