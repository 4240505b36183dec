#include "models/video_autoencoder.hpp"

#include <vector>

namespace deepcache {

VideoAutoencoder::VideoAutoencoder(const ModelPackage& package, torch::Device device,
                                   std::optional<torch::Dtype> compute_dtype)
    : device_(device),
      dtype_(package.dtype()),
      config_(package.read("vae/config.json", Autoencoder::read)),
      encoder_(vae_network(package, "vae/encoder.pt", device, compute_dtype)),
      decoder_(vae_network(package, "vae/decoder.pt", device, compute_dtype)),
      encoder_dtype_(package.dtype("vae/encoder.pt")),
      decoder_dtype_(package.dtype("vae/decoder.pt")) {}

torch::Tensor VideoAutoencoder::decode(const torch::Tensor& latents, std::int64_t chunk_size) const {
  const auto input = (1 / config_.scaling_factor * latents).to(device_, decoder_dtype_);
  std::vector<torch::Tensor> chunks;
  for (const auto& chunk : input.flatten(0, 1).split(chunk_size)) {
    const auto decoded = decoder_(chunk.unsqueeze(0))[0];
    chunks.push_back((decoded.to(torch::kFloat) / 2 + 0.5).clamp(0, 1).cpu());
  }
  return torch::cat(chunks).unflatten(0, {latents.size(0), latents.size(1)});
}

torch::Tensor VideoAutoencoder::encode(const torch::Tensor& images) const {
  return encoder_(images.to(device_, encoder_dtype_)).chunk(2, 1)[0].to(dtype_);
}

}  // namespace deepcache
