#include "pipelines/video_request.hpp"

#include <algorithm>
#include <cmath>
#include <string>

#include "error.hpp"
#include "pipelines/checks.hpp"

namespace deepcache {
namespace {

void check_image(const torch::Tensor& image) {
  constexpr std::int64_t kLeast = 2;  // of a side: smoothing reflects at the edges
  const bool fits = image.defined() && (image.dim() == 3 || image.dim() == 4) && image.is_floating_point() &&
                    image.size(0) > 0 && image.size(-3) == 3 && image.size(-2) >= kLeast && image.size(-1) >= kLeast;
  check_argument(fits,
                 "image must hold floating-point values of shape [3, H, W], or several, [n, 3, H, W], of {} pixels a "
                 "side or more; got {}",
                 kLeast, describe(image));
  const auto least = image.min().item<double>();
  const auto most = image.max().item<double>();
  check_argument(least >= 0 && most <= 1, "image must hold values from 0 to 1, got {} to {}", least, most);
}

void check_guidance(const StableVideoDiffusionParams& params) {
  const auto least = params.min_guidance_scale, most = params.max_guidance_scale;
  check_argument(std::isfinite(least) && std::isfinite(most),
                 "min_guidance_scale and max_guidance_scale must be finite numbers, got {} and {}", least, most);
  check_argument(most > 1 || least <= 1,
                 "max_guidance_scale must be above 1 where min_guidance_scale is: without, no frame has guidance; got "
                 "{} and {}",
                 most, least);
}

void check_conditions(const StableVideoDiffusionParams& params) {
  check_argument(params.fps >= 1 && params.fps <= 1000, "fps must be 1 to 1000, got {}", params.fps);
  check_argument(params.motion_bucket_id >= 0 && params.motion_bucket_id <= 1023,
                 "motion_bucket_id must be 0 to 1023, got {}", params.motion_bucket_id);
  check_argument(params.noise_aug_strength >= 0 && std::isfinite(params.noise_aug_strength),
                 "noise_aug_strength must be a finite number, 0 or above, got {}", params.noise_aug_strength);
}

}  // namespace

StableVideoDiffusionParams resolve(StableVideoDiffusionParams params, const VideoTraits& traits) {
  if (params.height == 0) params.height = traits.sample_size * traits.vae_scale_factor;
  if (params.width == 0) params.width = traits.sample_size * traits.vae_scale_factor;
  if (!params.num_frames) params.num_frames = traits.num_frames;
  if (!params.decode_chunk_size) params.decode_chunk_size = params.num_frames;
  return params;
}

std::vector<std::int64_t> latent_shape(std::int64_t num_images, const StableVideoDiffusionParams& params,
                                       const VideoTraits& traits) {
  return {num_images * params.num_videos_per_prompt, *params.num_frames, traits.latent_channels,
          params.height / traits.vae_scale_factor, params.width / traits.vae_scale_factor};
}

void check_request(const torch::Tensor& image, const StableVideoDiffusionParams& params, const VideoTraits& traits) {
  check_argument(*params.num_frames >= 1, "num_frames must be 1 or above, got {}", *params.num_frames);
  check_argument(*params.decode_chunk_size >= 1, "decode_chunk_size must be 1 frame or more, got {}",
                 *params.decode_chunk_size);
  check_argument(params.num_videos_per_prompt >= 1, "num_videos_per_prompt must be 1 or above, got {}",
                 params.num_videos_per_prompt);
  check_side(params.height, "height", traits.vae_scale_factor);
  check_side(params.width, "width", traits.vae_scale_factor);
  check_guidance(params);
  check_conditions(params);
  check_image(image);
  const auto latents = latent_shape(image.dim() == 4 ? image.size(0) : 1, params, traits);
  check_start(params.seeds, params.latents, latents);
}

}  // namespace deepcache
