#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "deepcache/stable_diffusion.hpp"

namespace deepcache {

/// What tells the families of Stable Diffusion apart, read from a package's configurations.
struct ModelTraits {
  bool is_xl = false;                 ///< SDXL: is told of sizes and crops, and has pooled text embeddings
  bool has_aesthetics_score = false;  ///< SDXL's refiner: is told of a score instead of the target size
  std::int64_t in_channels = 4;       ///< of the UNet
  std::int64_t latent_channels = 4;   ///< of the VAE
  std::int64_t cross_attention_dim = 768;
  std::int64_t sample_size = 64;      ///< latents of the model's own image size
  std::int64_t vae_scale_factor = 8;  ///< pixels to a latent
  std::size_t num_controlnets = 0;
  bool is_inpainting() const { return in_channels != latent_channels; }
};

/// Whether the image to begin with is latents already.
bool holds_latents(const StableDiffusionParams& params, const ModelTraits& traits);

/// See StableDiffusionPipeline::resolve.
StableDiffusionParams resolve(StableDiffusionParams params, const ModelTraits& traits);

/// Throws std::invalid_argument for what can be seen to be wrong with resolved parameters before anything is computed.
void check_request(const std::vector<std::string>& prompts, const StableDiffusionParams& params,
                   const ModelTraits& traits);

/// [B, C, h, w] of the latents of a request.
std::vector<std::int64_t> latent_shape(std::size_t num_prompts, const StableDiffusionParams& params,
                                       const ModelTraits& traits);

}  // namespace deepcache
