#include "pipelines/prepare_latents.hpp"

#include <ATen/Functions.h>

#include <algorithm>

#include "pipelines/checks.hpp"

namespace deepcache {
namespace {

/// The pictures over and over, until there are `count`.
torch::Tensor repeat_to(std::int64_t count, const torch::Tensor& pictures) {
  return pictures.repeat({count / pictures.size(0), 1, 1, 1});
}

torch::Tensor encode(const LatentSources& from, const torch::Tensor& image) {
  if (holds_latents(from.params, from.traits)) return image.to(from.options);
  return from.vae.encode(image, from.params.vae, from.noise.first(image.size(0))).to(from.options);
}

torch::Tensor initial_noise(const LatentSources& from) {
  return initial_noise(from.params.latents, from.shape, from.options, from.noise);
}

PreparedLatents image_to_image(const LatentSources& from) {
  auto image = as_batch(from.params.image);
  const auto batch = from.shape[0];
  // With a generator for each picture to make, each draws its own sample of the image's latents.
  if (!holds_latents(from.params, from.traits) && from.params.seeds.size() > 1) image = repeat_to(batch, image);
  const auto latents = repeat_to(batch, encode(from, image));
  if (from.params.denoising_start) return {.latents = latents};
  return {.latents = from.scheduler.add_noise_at(latents, initial_noise(from), from.range.begin)};
}

PreparedLatents inpainting(const LatentSources& from) {
  const auto image = as_batch(from.params.image);
  const auto mask = as_batch(from.params.mask).ge(0.5).to(torch::kFloat);
  const auto batch = from.shape[0];
  const bool has_inpainting_unet = from.traits.is_inpainting();
  const bool from_noise = *from.params.strength == 1 && !from.params.denoising_start;

  torch::Tensor image_latents;
  if (!has_inpainting_unet || !from_noise) image_latents = repeat_to(batch, encode(from, image));
  const auto noise = initial_noise(from);
  PreparedLatents prepared;
  if (from.params.denoising_start)
    prepared.latents = image_latents;
  else if (from_noise)
    prepared.latents = noise * from.scheduler.init_noise_sigma();
  else
    prepared.latents = from.scheduler.add_noise_at(image_latents, noise, from.range.begin);

  const auto latent_mask =
      repeat_to(batch, at::upsample_nearest2d(mask, {from.shape[2], from.shape[3]}).to(from.options));
  if (has_inpainting_unet) {
    const auto kept = image * (1 - mask) + 0.5 * mask;  // grey, which the encoder knows as 0
    prepared.extra_channels = torch::cat({latent_mask, repeat_to(batch, encode(from, kept))}, 1);
    return prepared;
  }
  if (!holds_latents(
          from.params,
          from.traits)) {  // Python encodes what is kept here too, of which only the noise that it drew matters
    const auto count = std::max(image.size(0), mask.size(0));
    from.noise.first(count).randn({count, from.shape[1], from.shape[2], from.shape[3]}, from.options);
  }
  prepared.keep_unmasked = [=, &scheduler = from.scheduler, end = from.range.end](const torch::Tensor& latents,
                                                                                  std::int64_t next) {
    const auto kept = next < end ? scheduler.add_noise_at(image_latents, noise, next) : image_latents;
    return (1 - latent_mask) * kept + latent_mask * latents;
  };
  return prepared;
}

}  // namespace

torch::Tensor initial_noise(const torch::Tensor& given, const std::vector<std::int64_t>& shape,
                            const torch::TensorOptions& options, NoiseGenerator& noise) {
  return given.defined() ? given.to(options) : noise.randn(shape, options);
}

torch::Tensor decode_latents(const Autoencoder& vae, const torch::Tensor& latents, const VaeOptions& options) {
  check_latents(latents, vae.config().latent_channels);
  vae.prepare(options, false);
  const torch::NoGradGuard no_grad;
  return vae.decode(latents, options);
}

torch::Tensor as_batch(const torch::Tensor& pictures) {
  return pictures.dim() == 3 ? pictures.unsqueeze(0) : pictures;
}

PreparedLatents prepare_latents(const LatentSources& sources) {
  if (sources.params.mask.defined()) return inpainting(sources);
  if (sources.params.image.defined()) return image_to_image(sources);
  return {.latents = initial_noise(sources) * sources.scheduler.init_noise_sigma()};
}

}  // namespace deepcache
