#include "models/autoencoder.hpp"

#include <functional>
#include <vector>

#include "error.hpp"
#include "models/tiling.hpp"

namespace deepcache {

namespace {

using Function = std::function<torch::Tensor(const torch::Tensor&)>;

/// What a network makes of a batch, in pieces if the options say so.
torch::Tensor run(const Function& network, const torch::Tensor& batch, const TileSize& tile,
                  const VaeOptions& options) {
  const Function whole =
      options.tiling ? [&](const torch::Tensor& picture) { return run_tiled(network, picture, tile); } : network;
  if (!options.slicing) return whole(batch);
  std::vector<torch::Tensor> slices;
  for (const auto& picture : batch.split(1)) slices.push_back(whole(picture));
  return torch::cat(slices);
}

}  // namespace

Network vae_network(const ModelPackage& package, const char* name, torch::Device device,
                    std::optional<torch::Dtype> compute_dtype) {
  const bool casts = compute_dtype == torch::kBFloat16 && package.dtype(name) == package.dtype();
  return {package.network(name), device, casts ? compute_dtype : std::nullopt};
}

Autoencoder::Autoencoder(const ModelPackage& package, torch::Device device, std::optional<torch::Dtype> compute_dtype)
    : package_(package),
      device_(device),
      compute_dtype_(compute_dtype),
      config_(package.read("vae/config.json", read)),
      decoder_(vae_network(package, "vae/decoder.pt", device, compute_dtype)) {}

Autoencoder::Config Autoencoder::read(const ConfigReader& config) {
  for (const char* key : {"block_out_channels", "latent_channels", "scaling_factor"}) config.require(key);
  const auto levels = config.numbers("block_out_channels", 1, 1e6).size();
  check_data(levels >= 1 && levels < 16, "block_out_channels must have 1 to 15 entries, got {}", levels);
  return {.factor = std::int64_t{1} << (levels - 1),
          .sample_size = config.integer("sample_size", 32, 1, 1000000),
          .latent_channels = config.integer("latent_channels", 4, 1, 1000),
          .scaling_factor = config.number("scaling_factor", 0.18215, 1e-6, 1e6)};
}

const Network& Autoencoder::encoder() const {
  if (!encoder_) encoder_.emplace(vae_network(package_, "vae/encoder.pt", device_, compute_dtype_));
  return *encoder_;
}

void Autoencoder::prepare(const VaeOptions& options, bool encodes) const {
  const auto smallest = 2 * config_.factor;  // of which a quarter's overlap leaves a latent to step by
  check_argument(!options.tiling || config_.sample_size >= smallest,
                 "tiles of this VAE would have a side of {} pixels, its sample_size; it must be {} or more",
                 config_.sample_size, smallest);
  if (encodes) encoder();
}

torch::Tensor Autoencoder::decode(const torch::Tensor& latents, const VaeOptions& options) const {
  const TileSize tile{.input = config_.sample_size / config_.factor, .output = config_.sample_size};
  const auto input = latents.to(device_, package_.dtype("vae/decoder.pt")) / config_.scaling_factor;
  const auto decoded = run([this](const torch::Tensor& part) { return decoder_(part); }, input, tile, options);
  return (decoded.to(torch::kFloat) / 2 + 0.5).clamp(0, 1).cpu();
}

torch::Tensor Autoencoder::encode(const torch::Tensor& images, const VaeOptions& options, NoiseGenerator noise) const {
  const TileSize tile{.input = config_.sample_size, .output = config_.sample_size / config_.factor};
  const auto input = (2 * images.to(torch::kFloat) - 1).to(device_, package_.dtype("vae/encoder.pt"));
  const auto moments =
      run([this](const torch::Tensor& part) { return encoder()(part); }, input, tile, options).chunk(2, 1);
  const auto deviation = (0.5 * moments[1].clamp(-30, 20)).exp();
  const auto sample = moments[0] + deviation * noise.randn(deviation.sizes(), deviation.options());
  return config_.scaling_factor * sample.to(package_.dtype());
}

bool Autoencoder::shares_latents_with(const Autoencoder& other) const {
  return config_.factor == other.config_.factor && config_.latent_channels == other.config_.latent_channels &&
         config_.scaling_factor == other.config_.scaling_factor;
}

}  // namespace deepcache
