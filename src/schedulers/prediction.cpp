#include "schedulers/prediction.hpp"

#include <stdexcept>

namespace deepcache {

PredictionType read_prediction_type(const ConfigReader& config) {
  return config.choice("prediction_type", PredictionType::kEpsilon,
                       {{"epsilon", PredictionType::kEpsilon},
                        {"sample", PredictionType::kSample},
                        {"v_prediction", PredictionType::kVPrediction}});
}

torch::Tensor predict_original_sample(PredictionType type, const torch::Tensor& model_output,
                                      const torch::Tensor& sample, const torch::Tensor& alpha_t,
                                      const torch::Tensor& sigma_t) {
  switch (type) {
    case PredictionType::kEpsilon:
      // DDPM's eq. 4 (arXiv 2006.11239), solved for x_0.
      return (sample - sigma_t * model_output) / alpha_t;
    case PredictionType::kSample:
      return model_output;
    case PredictionType::kVPrediction:
      // v = alpha_t epsilon - sigma_t x_0 (arXiv 2202.00512, appendix D), solved for x_0.
      return alpha_t * sample - sigma_t * model_output;
    case PredictionType::kFlow:
      return sample - sigma_t * model_output;
  }
  throw std::invalid_argument("unknown prediction type");
}

torch::Tensor predict_epsilon(PredictionType type, const torch::Tensor& model_output, const torch::Tensor& sample,
                              const torch::Tensor& alpha_t, const torch::Tensor& sigma_t) {
  switch (type) {
    case PredictionType::kEpsilon:
      return model_output;
    case PredictionType::kSample:
      return (sample - alpha_t * model_output) / sigma_t;
    case PredictionType::kVPrediction:
      return alpha_t * model_output + sigma_t * sample;
    case PredictionType::kFlow:
      break;
  }
  throw std::invalid_argument("unknown prediction type");
}

}  // namespace deepcache
