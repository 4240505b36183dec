#pragma once

#include <torch/types.h>

#include <span>
#include <vector>

namespace deepcache {

/// Of the moves from `terms[0]` to the sum, in a batch (dimension 0): how much of its own an item makes, and how much
/// of that of its partner, the item half a batch away.
struct Shares {
  double own = 1;
  double partner = 0;
};

/// `weights[0] * terms[0] + ...`, summed in float32 or better, rounded to the terms' dtype. All terms have one shape,
/// dtype and device. Of terms on the CPU that are laid out alike, it is written into `buffer`, which is made if it
/// doesn't fit; else it is a new tensor.
/// @param shares  none, or one for each item of the batch: then the weights must sum to 1
torch::Tensor weighted_sum(std::span<const torch::Tensor> terms, std::span<const double> weights, torch::Tensor& buffer,
                           std::span<const Shares> shares = {});

/// A sum that is still to be made: what `weighted_sum` takes.
struct WeightedTerms {
  std::vector<torch::Tensor> terms;
  std::vector<double> weights;
  std::vector<Shares> shares = {};
};

/// The weights and shares of a sum as a tensor, for `weighted_sum_by`: float64, on the CPU, a column for each item.
/// Rows: what the first term is multiplied by, what the others' moves from it are, and, `with_partners`, what the
/// partners' are.
/// @param num_terms  at least those that have weights; the others count for nothing
torch::Tensor sum_coefficients(std::span<const double> weights, std::span<const Shares> shares, std::int64_t num_terms,
                               std::int64_t num_items, bool with_partners);

/// As `weighted_sum`, with the same bits, of numbers on the terms' device, so that a recording of it can be replayed
/// with others.
torch::Tensor weighted_sum_by(const torch::Tensor& coefficients, std::span<const torch::Tensor> terms);

/// What a forecast was worth, in one part of the batch.
struct ForecastProducts {
  double truth_truth = 0;    ///< <truth, truth>
  double change_change = 0;  ///< of change = truth - terms[0]
  double change_move = 0;    ///< of move = forecast - terms[0]
  double move_move = 0;
};

/// A forecast, `weighted_sum(terms, weights)`, beside the truth, in each item of the batch; summed in float64. The same
/// bits for any number of threads. Waits for other devices than the CPU.
/// @param of_halves  not of the items, but of what the halves of the batch have in common, (first + second) / sqrt(2)
/// of
///                   each item of a half, and after these of what they differ in, (second - first) / sqrt(2)
std::vector<ForecastProducts> compare_forecast(const torch::Tensor& truth, std::span<const torch::Tensor> terms,
                                               std::span<const double> weights, bool of_halves = false);

}  // namespace deepcache
