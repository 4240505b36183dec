#pragma once

#include <torch/types.h>

#include <cstdint>

#include "models/autoencoder.hpp"

namespace deepcache {

/// The variational autoencoder of Stable Video Diffusion: its decoder looks at neighbouring frames too.
class VideoAutoencoder {
 public:
  VideoAutoencoder(const ModelPackage& package, torch::Device device, std::optional<torch::Dtype> compute_dtype = {});

  /// Latents [B, F, C, h, w] as the UNet knows them, to frames [B, F, 3, H, W], float32 in [0, 1], on the CPU.
  /// @param chunk_size  frames at a time, of all videos in a row, as Python takes them: those of one chunk see each
  ///                    other, of whichever video they are
  torch::Tensor decode(const torch::Tensor& latents, std::int64_t chunk_size) const;

  /// Images [n, 3, H, W] in [-1, 1] to what the encoder takes for the likeliest latents [n, C, h, w], unscaled, in the
  /// package's dtype.
  torch::Tensor encode(const torch::Tensor& images) const;

  const Autoencoder::Config& config() const { return config_; }

 private:
  torch::Device device_;
  torch::Dtype dtype_;
  Autoencoder::Config config_;
  Network encoder_, decoder_;
  torch::Dtype encoder_dtype_, decoder_dtype_;
};

}  // namespace deepcache
