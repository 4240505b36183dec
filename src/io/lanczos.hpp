#pragma once

#include <torch/types.h>

#include <cstdint>

namespace deepcache {

/// Images uint8 [..., H, W] at another size, by Lanczos' filter of three lobes: bit for bit what Pillow makes of images
/// of 8 bits (version 13's `Image.resize` with `Resampling.LANCZOS`), which diffusers resizes with.
torch::Tensor resize_lanczos(const torch::Tensor& images, std::int64_t height, std::int64_t width);

}  // namespace deepcache
