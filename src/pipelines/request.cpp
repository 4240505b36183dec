#include "pipelines/request.hpp"

#include <torch/types.h>

#include <algorithm>
#include <cmath>
#include <utility>

#include "error.hpp"
#include "pipelines/checks.hpp"

namespace deepcache {
namespace {

/// Pixels to a value of the image: 1, or those of a latent.
std::int64_t pixels_a_value(const StableDiffusionParams& params, const ModelTraits& traits) {
  return holds_latents(params, traits) ? traits.vae_scale_factor : 1;
}

void check_share(const std::optional<double>& value, const char* name) {
  check_argument(!value || (*value > 0 && *value < 1), "{} must be above 0 and below 1, got {}", name,
                 value.value_or(0));
}

/// Of images or masks of the run's size: [channels, H, W], or a batch of them whose number divides the run's.
void check_picture(const torch::Tensor& picture, const char* name, std::int64_t channels, std::int64_t pixels_a_value,
                   std::int64_t batch, const StableDiffusionParams& params) {
  const auto height = params.height / pixels_a_value;
  const auto width = params.width / pixels_a_value;
  const bool fits = (picture.dim() == 3 || picture.dim() == 4) && picture.size(-3) == channels &&
                    picture.size(-2) == height && picture.size(-1) == width && picture.is_floating_point();
  check_argument(fits, "{} must hold floating-point values of shape [{}, {}, {}], or several, got {}", name, channels,
                 height, width, describe(picture));
  check_argument(picture.dim() == 3 || (picture.size(0) > 0 && batch % picture.size(0) == 0),
                 "{} must hold one picture, or a number that divides the {} to make, got {}", name, batch,
                 picture.size(0));
  if (pixels_a_value == 1)
    check_argument(picture.min().item<double>() >= 0 && picture.max().item<double>() <= 1,
                   "{} must hold values from 0 to 1, got {} to {}", name, picture.min().item<double>(),
                   picture.max().item<double>());
}

void check_image(const StableDiffusionParams& params, const ModelTraits& traits, std::int64_t batch) {
  const bool has_mask = params.mask.defined();
  if (!params.image.defined()) {
    check_argument(!has_mask, "a mask needs an image");
    check_argument(!params.strength, "strength needs an image, got {} without one", params.strength.value_or(0));
    check_argument(!params.denoising_start, "denoising_start needs an image, the latents to begin with");
    check_argument(!traits.has_aesthetics_score, "this model refines pictures: it needs an image");
    check_argument(!traits.is_inpainting(), "this model paints into pictures: it needs an image and a mask");
    return;
  }
  check_argument(has_mask || !traits.is_inpainting(), "this model paints into pictures: it needs a mask too");
  const auto scale = pixels_a_value(params, traits);
  check_picture(params.image, "image", scale > 1 ? traits.latent_channels : 3, scale, batch, params);
  check_argument(*params.strength > 0 && *params.strength <= 1, "strength must be above 0, to 1, got {}",
                 *params.strength);
  if (!has_mask) return;
  check_argument(scale == 1 || !traits.is_inpainting(),
                 "this model paints into pictures: it needs the image's pixels, got latents");
  check_picture(params.mask, "mask", 1, 1, batch, params);
  const auto images = params.image.dim() == 4 ? params.image.size(0) : 1;
  const auto masks = params.mask.dim() == 4 ? params.mask.size(0) : 1;
  check_argument(images == masks || images == 1 || masks == 1,
                 "there must be as many masks as images, or one of either, got {} and {}", masks, images);
}

void check_control_images(const StableDiffusionParams& params, const ModelTraits& traits, std::size_t num_prompts) {
  check_argument(params.control_images.size() == traits.num_controlnets,
                 "there must be one control image for each of the pipeline's {} ControlNets, got {}",
                 traits.num_controlnets, params.control_images.size());
  for (const auto& [image, scale, start, end] : params.control_images) {
    check_argument(image.defined(), "a control image isn't set");
    const auto count = image.dim() == 4 ? image.size(0) : 1;
    check_picture(image, "a control image", 3, 1, count, params);
    check_argument(count == 1 || std::cmp_equal(count, num_prompts),
                   "a control image must be one for all, or one for each of the {} prompts, got {}", num_prompts,
                   count);
    check_argument(std::isfinite(*scale), "conditioning_scale must be a finite number, got {}", *scale);
    check_argument(start >= 0 && start < end && end <= 1,
                   "guidance_start must be 0 or above, and below guidance_end, which must be 1 or below; got {} and {}",
                   start, end);
  }
}

void check_guidance(const StableDiffusionParams& params) {
  check_argument(std::isfinite(*params.guidance_scale), "guidance_scale must be a finite number, got {}",
                 *params.guidance_scale);
  check_argument(params.guidance_rescale >= 0 && params.guidance_rescale <= 1,
                 "guidance_rescale must be 0 to 1, got {}", params.guidance_rescale);
}

bool is_set(const std::optional<ImageSize>& size) {
  return size && (size->height != 0 || size->width != 0);
}

/// What SDXL is told besides the prompt.
void check_micro_conditioning(const StableDiffusionParams& params, const ModelTraits& traits) {
  const StableDiffusionParams defaults;
  check_argument(traits.is_xl || !(params.original_size || params.target_size || params.negative_original_size ||
                                   params.negative_target_size || is_set(params.crops_coords_top_left) ||
                                   is_set(params.negative_crops_coords_top_left)),
                 "the sizes and crops that a model is told of are SDXL's; this isn't one");
  check_argument(traits.has_aesthetics_score || (params.aesthetic_score == defaults.aesthetic_score &&
                                                 params.negative_aesthetic_score == defaults.negative_aesthetic_score),
                 "aesthetic scores are of SDXL's refiner; this isn't one, got {} and {}", params.aesthetic_score,
                 params.negative_aesthetic_score);
  check_argument(std::isfinite(params.aesthetic_score) && std::isfinite(params.negative_aesthetic_score),
                 "aesthetic scores must be finite numbers, got {} and {}", params.aesthetic_score,
                 params.negative_aesthetic_score);
}

void check_parts(const StableDiffusionParams& params) {
  check_share(params.denoising_start, "denoising_start");
  check_share(params.denoising_end, "denoising_end");
  check_argument(!params.denoising_start || !params.denoising_end || *params.denoising_start < *params.denoising_end,
                 "denoising_start must be below denoising_end, got {} and {}", params.denoising_start.value_or(0),
                 params.denoising_end.value_or(0));
}

// Defaults are those of the pipeline class that diffusers has for the task.

double default_guidance(const StableDiffusionParams& params, const ModelTraits& traits) {
  return traits.is_xl && (!params.control_images.empty() || !params.mask.defined()) ? 5.0 : 7.5;
}

double default_strength(const StableDiffusionParams& params, const ModelTraits& traits) {
  if (params.mask.defined()) return traits.is_xl ? 0.9999 : 1.0;
  return traits.is_xl && params.control_images.empty() ? 0.3 : 0.8;
}

double default_conditioning_scale(const StableDiffusionParams& params, const ModelTraits& traits) {
  if (params.mask.defined()) return traits.is_xl ? 1.0 : 0.5;
  return params.image.defined() ? 0.8 : 1.0;
}

}  // namespace

bool holds_latents(const StableDiffusionParams& params, const ModelTraits& traits) {
  return params.image.dim() == 4 && params.image.size(1) == traits.latent_channels;
}

StableDiffusionParams resolve(StableDiffusionParams params, const ModelTraits& traits) {
  const bool has_image = params.image.defined() && params.image.dim() >= 3;
  const bool has_control = !params.control_images.empty() && params.control_images[0].image.defined() &&
                           params.control_images[0].image.dim() >= 3;
  const auto side = [&](std::int64_t asked, std::int64_t dim) {
    if (asked != 0) return asked;
    if (has_image) return params.image.size(dim) * pixels_a_value(params, traits);
    if (has_control) return params.control_images[0].image.size(dim);
    return traits.sample_size * traits.vae_scale_factor;
  };
  params.height = side(params.height, -2);
  params.width = side(params.width, -1);
  if (!params.guidance_scale) params.guidance_scale = default_guidance(params, traits);
  if (params.image.defined() && !params.strength) params.strength = default_strength(params, traits);
  for (auto& control : params.control_images)
    if (!control.conditioning_scale) control.conditioning_scale = default_conditioning_scale(params, traits);
  return params;
}

std::vector<std::int64_t> latent_shape(std::size_t num_prompts, const StableDiffusionParams& params,
                                       const ModelTraits& traits) {
  return {static_cast<std::int64_t>(num_prompts) * params.num_images_per_prompt, traits.latent_channels,
          params.height / traits.vae_scale_factor, params.width / traits.vae_scale_factor};
}

void check_request(const std::vector<std::string>& prompts, const StableDiffusionParams& params,
                   const ModelTraits& traits) {
  check_argument(!prompts.empty(), "there must be one prompt or more, got none");
  check_argument(params.num_images_per_prompt >= 1, "num_images_per_prompt must be 1 or above, got {}",
                 params.num_images_per_prompt);
  check_side(params.height, "height", traits.vae_scale_factor);
  check_side(params.width, "width", traits.vae_scale_factor);
  check_guidance(params);
  const auto latents = latent_shape(prompts.size(), params, traits);
  check_start(params.seeds, params.latents, latents);
  check_parts(params);
  check_image(params, traits, latents[0]);
  check_control_images(params, traits, prompts.size());
  check_micro_conditioning(params, traits);
}

}  // namespace deepcache
