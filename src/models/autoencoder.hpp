#pragma once

#include <torch/types.h>

#include <cstdint>
#include <optional>

#include "core/torchscript.hpp"
#include "deepcache/noise.hpp"
#include "deepcache/stable_diffusion.hpp"
#include "models/model_package.hpp"

namespace deepcache {

/// A package's VAE network. It computes in bfloat16 if that is asked for; float16's range is too small for some, and
/// one that runs in another dtype than the package needs that.
Network vae_network(const ModelPackage& package, const char* name, torch::Device device,
                    std::optional<torch::Dtype> compute_dtype);

/// The variational autoencoder between images and latents.
class Autoencoder {
 public:
  /// What it says of itself in vae/config.json.
  struct Config {
    std::int64_t factor;       ///< pixels to a latent, of each side
    std::int64_t sample_size;  ///< pixels of a tile's side
    std::int64_t latent_channels;
    double scaling_factor;
  };

  /// @param compute_dtype  LoadOptions::compute_dtype
  Autoencoder(const ModelPackage& package, torch::Device device, std::optional<torch::Dtype> compute_dtype = {});

  /// Latents [B, C, h, w] as the UNet knows them, to images [B, 3, H, W], float32 in [0, 1], on the CPU.
  torch::Tensor decode(const torch::Tensor& latents, const VaeOptions& options) const;

  /// Images [B, 3, H, W] in [0, 1] to latents [B, C, h, w], drawn from what the encoder makes of each.
  torch::Tensor encode(const torch::Tensor& images, const VaeOptions& options, NoiseGenerator noise) const;

  /// Finds out before a run what would fail in it: reads the encoder, if it will be needed.
  /// @throws std::invalid_argument for tiles without pixels. @throws std::runtime_error if the encoder can't be read.
  void prepare(const VaeOptions& options, bool encodes) const;

  bool shares_latents_with(const Autoencoder& other) const;

  const Config& config() const { return config_; }

  /// @throws std::runtime_error if a setting isn't as it should be.
  static Config read(const ConfigReader& config);

 private:
  const Network& encoder() const;

  ModelPackage package_;
  torch::Device device_;
  std::optional<torch::Dtype> compute_dtype_;
  Config config_;
  Network decoder_;
  mutable std::optional<Network> encoder_;  // read when first needed: text to image has no use for it
};

}  // namespace deepcache
