#pragma once

#include <torch/types.h>

#include <vector>

namespace deepcache::cpu {

/// Convolutions of pictures whose pixels were doubled in both directions, in 9 multiplications of four output pixels,
/// instead of 36. Along one direction, with the taps a, b, c, what was made of a pixel x between its neighbours l and r
/// is
///     a l + b x + c x  =  a (l - x) + (a + b + c) x,
///     a x + b x + c r  =  (a + b + c) x + (-c) (x - r):
/// three products for two pixels.

/// Weight [O, C, 3, 3] with the taps a, a + b + c, -c in both directions.
torch::Tensor fold_upsampling(const torch::Tensor& weight);

/// Such a one, packed [blocks, 9, C, block], with the taps that it had.
torch::Tensor unfold_upsampling(const torch::Tensor& packed);

/// @param input   [B, C, H, W]
/// @param packed  of what `fold_upsampling` gives
/// @param bias    of each output
/// @param output  [B, O, 2 * H or 2 * H - 1, 2 * W or 2 * W - 1], in channels-last order; written
void convolve_upsampled(const torch::Tensor& input, const torch::Tensor& packed, const std::vector<float>& bias,
                        const torch::Tensor& output);

}  // namespace deepcache::cpu
