#pragma once

#include <torch/csrc/jit/api/module.h>

#include <cstdint>
#include <map>
#include <optional>
#include <vector>

namespace deepcache::apps {

/// The most bytes that a network's tensors take at a time: inputs, what operators have made and is still needed, and
/// outputs. Weights, and what an operator takes for itself, come on top.
struct Memory {
  std::int64_t full_step = 0;
  std::int64_t cached_step = 0;                   ///< at branch 0, with the cached feature
  std::map<std::int64_t, std::int64_t> decoding;  ///< of one video, by the frames decoded at a time
};

/// @param inputs   of the UNet, on the meta device
/// @param decoder  of latents as the UNet gives them, [B, F, C, h, w], if it is known
Memory measure_memory(const torch::jit::Module& unet, const std::vector<c10::IValue>& inputs,
                      const std::optional<torch::jit::Module>& decoder);

}  // namespace deepcache::apps
