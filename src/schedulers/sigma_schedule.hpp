#pragma once

#include <torch/types.h>

#include <cstdint>
#include <vector>

#include "io/config_reader.hpp"

// The noise levels of the schedulers that step from sigma to sigma. diffusers computes them with NumPy, mostly in
// float64, and rounds the result to float32; so do these.
namespace deepcache {

/// Where a run's sigmas lie: at the timesteps of its spacing, or between a highest and a lowest one whatever those are.
enum class SigmaSpacing { kTimesteps, kKarras, kExponential, kBeta, kLu };

/// What the last step leads to: no noise, or what the first training timestep has.
enum class FinalSigmas { kZero, kSigmaMin };

/// Reads use_karras_sigmas and its like, but not use_lu_lambdas, which DPM-Solver alone has.
/// @throws std::runtime_error if several are set.
SigmaSpacing read_sigma_spacing(const ConfigReader& config);

FinalSigmas read_final_sigmas(const ConfigReader& config);

/// The noise level of each training timestep where the image keeps its scale, sqrt((1 - alpha_bar) / alpha_bar):
/// float32, rising.
torch::Tensor make_train_sigmas(const torch::Tensor& alphas_cumprod);

/// The function with the 1-d float32 `values` at 0, 1, 2, ... at each of `points`, linear between and constant beyond
/// them, as np.interp.
std::vector<double> interpolate(const std::vector<float>& points, const torch::Tensor& values);

/// `count` sigmas from `sigma_max` down to `sigma_min`, for the spacings that don't go by timesteps.
/// @throws std::invalid_argument unless 0 < sigma_min <= sigma_max, both finite.
std::vector<double> space_sigmas(SigmaSpacing spacing, double sigma_max, double sigma_min, std::int64_t count);

/// For each of `sigmas` the timestep, with its fraction, that has it: linear in log sigma between training timesteps,
/// the first or last one beyond them.
std::vector<double> sigmas_to_timesteps(const std::vector<double>& sigmas, const torch::Tensor& train_sigmas);

/// `sigmas` and `final_sigma` as float32 on the CPU.
/// @throws std::invalid_argument unless all `sigmas` are finite and above 0: diffusers divides by them.
torch::Tensor to_sigma_tensor(const std::vector<double>& sigmas, double final_sigma);

}  // namespace deepcache
