#pragma once

#include <torch/types.h>

#include <cstdint>
#include <optional>

/// Operators of UNets that LibTorch computes in several passes over memory, or has no fast kernel for, on CPUs with
/// AVX2 or AVX-512. Where there is no kernel (another processor, dtype or layout) they do what LibTorch does.
namespace deepcache::cpu {

/// Whether there are kernels for numbers of this type on this processor: float32 with AVX2 and FMA or with AVX-512,
/// bfloat16 where it has instructions for that (avx512_bf16). It may have less, as LibTorch's environment variable
/// ATEN_CPU_CAPABILITY says: `avx2`, or `default` for none.
bool has_kernels(torch::Dtype dtype);

/// Whether LibTorch computes with numbers of this type by converting each to float32, on this processor. False where it
/// isn't known.
bool is_emulated(torch::Dtype dtype);

/// softmax(scale * query key^T) value, of [B, H, L, D], computed in blocks of the scores (arXiv 2205.14135).
/// @param scale  default: 1 / sqrt(D)
/// @returns [B, H, L, D], in memory as [B, L, H, D]: heads are next to each other, as the next layer reads them
torch::Tensor attention(const torch::Tensor& query, const torch::Tensor& key, const torch::Tensor& value,
                        std::optional<double> scale);

/// Group norm (arXiv 1803.08494), and then SiLU if asked for, of [B, C, H, W] in channels_last.
torch::Tensor group_norm(const torch::Tensor& input, std::int64_t num_groups,
                         const std::optional<torch::Tensor>& weight, const std::optional<torch::Tensor>& bias,
                         double eps, bool silu);

/// GEGLU (arXiv 2002.05202) of [..., 2 * D]: the first half times gelu of the second.
torch::Tensor geglu(const torch::Tensor& input);

/// Makes these, and those of packed_layers.hpp, operators of graphs, deepcache::attention and so on, of this process.
void register_operators();

}  // namespace deepcache::cpu
