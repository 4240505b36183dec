#pragma once

#include <torch/types.h>

#include <cstdint>
#include <functional>

namespace deepcache {

/// The side of a square tile, in the values of what goes in, and of what comes out.
struct TileSize {
  std::int64_t input;
  std::int64_t output;
};

/// What `network` makes of a large picture [B, C, H, W], tile by tile: tiles overlap by a quarter, over which each
/// fades into the next. After `tiled_decode` of diffusers' autoencoder_kl.py. Smaller ones go through in one piece.
torch::Tensor run_tiled(const std::function<torch::Tensor(const torch::Tensor&)>& network, const torch::Tensor& picture,
                        const TileSize& tile);

}  // namespace deepcache
