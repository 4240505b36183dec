#include "models/autoencoder.hpp"

#include "error.hpp"

namespace deepcache {

Autoencoder::Autoencoder(const ModelPackage& package, torch::Device device)
    : config_(package.read("vae/config.json", read)),
      dtype_(package.dtype()),
      decoder_(package.network("vae/decoder.pt"), device) {}

Autoencoder::Config Autoencoder::read(const ConfigReader& config) {
  for (const char* key : {"block_out_channels", "scaling_factor"}) config.require(key);
  const auto levels = config.numbers("block_out_channels", 1, 1e6).size();
  check_data(levels >= 1 && levels < 16, "block_out_channels must have 1 to 15 entries, got {}", levels);
  return {.factor = std::int64_t{1} << (levels - 1),
          .scaling_factor = config.number("scaling_factor", 0.18215, 1e-6, 1e6)};
}

torch::Tensor Autoencoder::decode(const torch::Tensor& latents) const {
  const auto decoded = decoder_((latents / config_.scaling_factor).to(dtype_));
  return (decoded.to(torch::kFloat) / 2 + 0.5).clamp(0, 1).cpu();
}

}  // namespace deepcache
