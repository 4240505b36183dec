#pragma once

#include <torch/types.h>

#include <cmath>

namespace deepcache {

/// Frames [F, 3, H, W] of a soft disc that moves over a coloured gradient.
inline torch::Tensor moving_disc(std::int64_t frames, std::int64_t height, std::int64_t width) {
  const auto y = torch::linspace(0, 1, height).view({1, height, 1});
  const auto x = torch::linspace(0, 1, width).view({1, 1, width});
  const auto centre = torch::linspace(0.3, 0.7, frames).view({frames, 1, 1});
  const auto disc = torch::sigmoid((0.2 - ((x - centre).square() + (y - 0.5).square()).sqrt()) * 20);
  const auto ground =
      torch::stack({x.expand({1, height, width})[0], y.expand({1, height, width})[0], 1 - (x * y)[0]});  // [3, H, W]
  const auto colour = torch::tensor({0.9, 0.2, 0.1}, torch::kFloat).view({3, 1, 1});
  return ground + disc.unsqueeze(1) * (colour - ground);
}

}  // namespace deepcache
