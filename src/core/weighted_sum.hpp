#pragma once

#include <torch/types.h>

#include <span>
#include <vector>

namespace deepcache {

/// `weights[0] * terms[0] + ...`, summed in float32 or better, rounded to the terms' dtype. All terms have one shape,
/// dtype and device. There are as many weights as terms, or as many for each item of the batch (dimension 0), those of
/// the first item first. Of terms on the CPU that are laid out alike, it is written into `buffer`, which is made if it
/// doesn't fit; else it is a new tensor.
torch::Tensor weighted_sum(std::span<const torch::Tensor> terms, std::span<const double> weights,
                           torch::Tensor& buffer);

/// What a forecast was worth, of one item.
struct ForecastProducts {
  double truth_truth = 0;    ///< <truth, truth>
  double change_change = 0;  ///< of change = truth - terms[0]
  double change_move = 0;    ///< of move = forecast - terms[0]
  double move_move = 0;
};

/// A forecast, `weighted_sum(terms, weights)` with as many weights as terms, beside the truth, in each item of the
/// batch; summed in float64. The same bits for any number of threads. Waits for other devices than the CPU.
std::vector<ForecastProducts> compare_forecast(const torch::Tensor& truth, std::span<const torch::Tensor> terms,
                                               std::span<const double> weights);

}  // namespace deepcache
