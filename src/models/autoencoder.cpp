#include "models/autoencoder.hpp"

#include "error.hpp"

namespace deepcache {

Autoencoder::Autoencoder(const ModelPackage& package, torch::Device device)
    : package_(package),
      device_(device),
      config_(package.read("vae/config.json", read)),
      dtype_(package.dtype()),
      decoder_(package.network("vae/decoder.pt"), device) {}

Autoencoder::Config Autoencoder::read(const ConfigReader& config) {
  for (const char* key : {"block_out_channels", "latent_channels", "scaling_factor"}) config.require(key);
  const auto levels = config.numbers("block_out_channels", 1, 1e6).size();
  check_data(levels >= 1 && levels < 16, "block_out_channels must have 1 to 15 entries, got {}", levels);
  return {.factor = std::int64_t{1} << (levels - 1),
          .latent_channels = config.integer("latent_channels", 4, 1, 1000),
          .scaling_factor = config.number("scaling_factor", 0.18215, 1e-6, 1e6)};
}

const Network& Autoencoder::encoder() const {
  if (!encoder_) encoder_.emplace(package_.network("vae/encoder.pt"), device_);
  return *encoder_;
}

torch::Tensor Autoencoder::decode(const torch::Tensor& latents) const {
  const auto decoded = decoder_((latents / config_.scaling_factor).to(dtype_));
  return (decoded.to(torch::kFloat) / 2 + 0.5).clamp(0, 1).cpu();
}

torch::Tensor Autoencoder::encode(const torch::Tensor& images, NoiseGenerator noise) const {
  const auto moments = encoder()((2 * images.to(torch::kFloat) - 1).to(device_, dtype_)).chunk(2, 1);
  const auto deviation = (0.5 * moments[1].clamp(-30, 20)).exp();
  return config_.scaling_factor * (moments[0] + deviation * noise.randn(deviation.sizes(), deviation.options()));
}

}  // namespace deepcache
