#pragma once

#include <torch/types.h>

#include "io/config_reader.hpp"

namespace deepcache {

/// What the model's output is: the noise in x_t, x_0 itself, the velocity between them (arXiv 2202.00512, app. D), or,
/// where x_t = (1 - sigma_t) x_0 + sigma_t epsilon, the flow from x_0 to epsilon (arXiv 2210.02747).
enum class PredictionType { kEpsilon, kSample, kVPrediction, kFlow };

/// For the classes of diffusers that know the first three.
PredictionType read_prediction_type(const ConfigReader& config);

/// x_0 from the model's output for x_t = alpha_t x_0 + sigma_t epsilon, where alpha_t and sigma_t have no dimensions:
/// sqrt(alpha_bar_t) and sqrt(1 - alpha_bar_t) in DDPM's notation.
torch::Tensor predict_original_sample(PredictionType type, const torch::Tensor& model_output,
                                      const torch::Tensor& sample, const torch::Tensor& alpha_t,
                                      const torch::Tensor& sigma_t);

/// The same for epsilon, but of kFlow.
torch::Tensor predict_epsilon(PredictionType type, const torch::Tensor& model_output, const torch::Tensor& sample,
                              const torch::Tensor& alpha_t, const torch::Tensor& sigma_t);

}  // namespace deepcache
