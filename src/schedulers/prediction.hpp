#pragma once

#include <cstdint>

#include "schedulers/config_reader.hpp"

namespace deepcache {

/// What the model's output is: the noise in x_t, x_0 itself, or the velocity between them (arXiv 2202.00512, app. D).
enum class PredictionType { kEpsilon, kSample, kVPrediction };

/// For the classes of diffusers that know all three.
inline PredictionType read_prediction_type(const ConfigReader& config) {
  return config.choice("prediction_type", PredictionType::kEpsilon,
                       {{"epsilon", PredictionType::kEpsilon},
                        {"sample", PredictionType::kSample},
                        {"v_prediction", PredictionType::kVPrediction}});
}

}  // namespace deepcache
