#pragma once

#include <torch/types.h>

#include <cstdint>
#include <optional>

/// Linear layers and convolutions on weights that are reordered once, so that each call multiplies matrices only
/// (Kernels::multiply). The order depends on the weight and the processor, not on the input's size, so that one copy
/// serves every size. LibTorch's own layers reorder the weight in each call, and so do mkldnn's packed ones where the
/// input has another size than they were packed for.
namespace deepcache::cpu {

/// Weight [O, C, kh, kw] or, of a linear layer, [O, C]; in blocks of outputs, [O / block, kh * kw, C, block], and for
/// bfloat16 with two and two inputs next to each other. The last block is filled up with zeros.
/// @param upsamples  it is a 3x3 convolution's, for `upsample_convolution`
torch::Tensor pack_weight(const torch::Tensor& weight, bool upsamples = false);

/// Whether layers with such weights can be packed: there are kernels for their type, and for bfloat16 its inputs are a
/// multiple of 2.
bool can_pack(const torch::Tensor& weight);

/// input [..., C] to [..., out_features], plus `added` if there is one, as `+` adds it.
/// @throws c10::Error if the input has another dtype or width than the weight.
torch::Tensor linear(const torch::Tensor& input, const torch::Tensor& packed, const std::optional<torch::Tensor>& bias,
                     std::int64_t out_features, const std::optional<torch::Tensor>& added = std::nullopt);

/// input [B, C, H, W] to [B, out_channels, H', W'], in channels_last, plus `added` if there is one. No groups, no
/// dilation.
/// @throws c10::Error if the input has another dtype or number of channels than the weight.
torch::Tensor convolution(const torch::Tensor& input, const torch::Tensor& packed,
                          const std::optional<torch::Tensor>& bias, std::int64_t out_channels,
                          torch::IntArrayRef kernel_size, torch::IntArrayRef stride, torch::IntArrayRef padding,
                          const std::optional<torch::Tensor>& added = std::nullopt);

/// Nearest-neighbour upsampling of [B, C, H, W] to [B, C, *size], or by 2 if there is none, and a 3x3 convolution of it
/// with stride and padding 1 (upsample_convolution.hpp).
/// @param packed  with `upsamples`
/// @returns [B, out_channels, *size], in channels_last
/// @throws c10::Error if the input has another dtype or number of channels than the weight.
torch::Tensor upsample_convolution(const torch::Tensor& input, const torch::Tensor& packed,
                                   const std::optional<torch::Tensor>& bias, std::int64_t out_channels,
                                   at::OptionalIntArrayRef size);

}  // namespace deepcache::cpu
