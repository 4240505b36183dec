#pragma once

#include <torch/types.h>

#include <cstdint>

#include "core/torchscript.hpp"
#include "models/model_package.hpp"

namespace deepcache {

/// The variational autoencoder between images and latents.
class Autoencoder {
 public:
  Autoencoder(const ModelPackage& package, torch::Device device);

  /// Latents [B, C, h, w] as the UNet knows them, to images [B, 3, H, W], float32 in [0, 1], on the CPU.
  torch::Tensor decode(const torch::Tensor& latents) const;

  /// Pixels to a latent.
  std::int64_t factor() const { return config_.factor; }

 private:
  struct Config {
    std::int64_t factor;
    double scaling_factor;
  };
  static Config read(const ConfigReader& config);

  Config config_;
  torch::Dtype dtype_;
  Network decoder_;
};

}  // namespace deepcache
