#pragma once

#include <torch/types.h>

#include <vector>

namespace deepcache::cpu {

/// A 3x3 convolution of stride 1 by Winograd's minimal filtering F(2x2, 3x3) (Lavin and Gray, "Fast Algorithms for
/// Convolutional Neural Networks", arXiv:1509.09308): 4 multiplications of an output pixel instead of 9. A tile of 2x2
/// output pixels is computed from one of 4x4 input pixels; both it and the weights are transformed by additions, and
/// multiplied at each of the 16 places of such a tile apart.
/// @param input   [B, C, H, W], float32, in channels-last order
/// @param packed  as of `pack_weight`: [blocks, 9, C, block]
/// @param bias    of each output
/// @param added   undefined, or what is added to the output, of its shape and layout
/// @param output  [B, O, H + 2 * padding_height - 2, W + 2 * padding_width - 2], in channels-last order; written
void winograd_convolution(const torch::Tensor& input, const torch::Tensor& packed, torch::IntArrayRef padding,
                          const std::vector<float>& bias, const torch::Tensor& added, const torch::Tensor& output);

/// Is it faster than nine products: not where little is multiplied with what is transformed. The same for each batch
/// size, so that a picture doesn't depend on it.
bool pays_as_winograd(std::int64_t inputs, const torch::Tensor& output);

}  // namespace deepcache::cpu
