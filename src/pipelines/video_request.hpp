#pragma once

#include <cstdint>
#include <vector>

#include "deepcache/stable_video_diffusion.hpp"

namespace deepcache {

/// What a request's sizes are checked against, read from a package's configurations.
struct VideoTraits {
  std::int64_t latent_channels = 4;
  std::int64_t sample_size = 96;  ///< latents of a side, where a size is left to the model
  std::int64_t num_frames = 25;   ///< where it is left to the model
  std::int64_t vae_scale_factor = 8;
};

/// See StableVideoDiffusionPipeline::resolve.
StableVideoDiffusionParams resolve(StableVideoDiffusionParams params, const VideoTraits& traits);

/// Throws std::invalid_argument for what can be seen to be wrong with resolved parameters before anything is computed.
void check_request(const torch::Tensor& image, const StableVideoDiffusionParams& params, const VideoTraits& traits);

/// [B, F, C, h, w] of the latents of a resolved request.
std::vector<std::int64_t> latent_shape(std::int64_t num_images, const StableVideoDiffusionParams& params,
                                       const VideoTraits& traits);

}  // namespace deepcache
