#include "deepcache/stable_video_diffusion.hpp"

#include <torch/types.h>

#include <algorithm>
#include <array>

#include "core/torchscript.hpp"
#include "deepcache/noise.hpp"
#include "deepcache/scheduler.hpp"
#include "error.hpp"
#include "io/lanczos.hpp"
#include "log.hpp"
#include "models/image_encoder.hpp"
#include "models/model_package.hpp"
#include "models/video_autoencoder.hpp"
#include "pipelines/checks.hpp"
#include "pipelines/denoising_loop.hpp"
#include "pipelines/load_unet.hpp"
#include "pipelines/prepare_latents.hpp"
#include "pipelines/scheduler_source.hpp"
#include "pipelines/video_request.hpp"

namespace deepcache {
namespace {

constexpr std::int64_t kTimeIds = 3;  // frames per second, motion bucket, noise on the image

VideoTraits read_traits(const ModelPackage& package, const VideoAutoencoder& vae) {
  VideoTraits traits{.latent_channels = vae.config().latent_channels, .vae_scale_factor = vae.config().factor};
  return package.read("unet/config.json", [&](const ConfigReader& config) {
    for (const char* key : {"in_channels", "sample_size", "num_frames"}) config.require(key);
    const auto in_channels = config.integer("in_channels", 8, 1, 1000);
    check_data(in_channels == 2 * traits.latent_channels,
               "in_channels must be {}, of the latents and of the image's, got {}", 2 * traits.latent_channels,
               in_channels);
    const auto embedded = config.integer("addition_time_embed_dim", 256, 1, 1000000);
    const auto both = config.integer("projection_class_embeddings_input_dim", 768, 1, 1000000);
    check_data(both == kTimeIds * embedded,
               "projection_class_embeddings_input_dim must be {} times addition_time_embed_dim, {}, got {}", kTimeIds,
               embedded, both);
    traits.sample_size = config.integer("sample_size", 96, 1, 100000);
    traits.num_frames = config.integer("num_frames", 25, 1, 100000);
    return traits;
  });
}

void check_takes_video(const UNet& unet) {
  const std::vector<std::string> expected{"sample", "timestep", "encoder_hidden_states", "added_time_ids"};
  const auto names = unet.input_names();
  check_data(std::ranges::is_permutation(names, expected),
             "unet/model.pt isn't a UNet with a temporal axis, for videos: its inputs are {}; expected {}",
             fmt::join(names, ", "), fmt::join(expected, ", "));
}

/// Images [n, 3, H, W] of the size of the video's frames, float32 in [0, 1].
torch::Tensor fit(const torch::Tensor& images, const StableVideoDiffusionParams& params) {
  const auto height = images.size(2), width = images.size(3);
  if (height == params.height && width == params.width) return images.to(torch::kFloat);
  if (height * params.width != width * params.height)
    log(LogLevel::kWarning,
        fmt::format("the image has {}x{} pixels, of another aspect than the video's {}x{}: it is stretched, as "
                    "diffusers does it; crop it first to keep its proportions",
                    width, height, params.width, params.height));
  const auto bytes = (images.cpu().to(torch::kFloat) * 255).round().to(torch::kUInt8);
  return resize_lanczos(bytes, params.height, params.width).to(torch::kFloat) / 255;
}

/// One for each frame, [1, F, 1, 1, 1]; undefined if there is no guidance.
torch::Tensor guidance(const StableVideoDiffusionParams& params, const torch::TensorOptions& options) {
  if (params.max_guidance_scale <= 1) return {};
  return torch::linspace(params.min_guidance_scale, params.max_guidance_scale, *params.num_frames, torch::kFloat)
      .to(options)
      .view({1, -1, 1, 1, 1});
}

}  // namespace

struct StableVideoDiffusionPipeline::Impl {
  Impl(const ModelPackage& package, const LoadOptions& options)
      : device(options.device),
        dtype(package.dtype()),
        scheduler_source(package),
        scheduler(scheduler_source.make(options.scheduler)),
        image_encoder(package, device),
        unet(load_unet(package, options)),
        vae(package, device, options.compute_dtype),
        traits(read_traits(package, vae)) {
    check_takes_video(unet);
  }

  torch::TensorOptions tensor_options() const { return torch::TensorOptions().dtype(dtype).device(device); }

  /// All that can be wrong with a request is found here, before anything is computed.
  StableVideoDiffusionParams check(const torch::Tensor& image, const StableVideoDiffusionParams& asked) const {
    auto params = deepcache::resolve(asked, traits);
    check_request(image, params, traits);
    scheduler->clone()->set_timesteps(params.num_inference_steps);  // not the pipeline's own, which may be in a run
    return params;
  }

  /// Noise is drawn in Python's order: the image's, then the first latents'.
  PreparedLatents prepare(const torch::Tensor& images, const StableVideoDiffusionParams& params,
                          NoiseGenerator& noise) const {
    auto image = 2 * fit(images, params) - 1;
    image = image + params.noise_aug_strength * noise.first(image.size(0)).randn(image.sizes(), image.options());
    const auto image_latents = vae.encode(image)
                                   .repeat_interleave(params.num_videos_per_prompt, 0)
                                   .unsqueeze(1)
                                   .repeat({1, *params.num_frames, 1, 1, 1});
    const auto first =
        initial_noise(params.latents, deepcache::latent_shape(images.size(0), params, traits), tensor_options(), noise);
    return {.latents = first * scheduler->init_noise_sigma(),
            .extra_channels = image_latents,
            .unconditional_extra_channels = torch::zeros_like(image_latents)};
  }

  Conditions make_conditions(const torch::Tensor& images, const StableVideoDiffusionParams& params) const {
    const auto embeddings = image_encoder.encode(images).repeat_interleave(params.num_videos_per_prompt, 0);
    // The models were told one frame a second less than there are.
    const auto time_ids = torch::tensor({static_cast<double>(params.fps - 1),
                                         static_cast<double>(params.motion_bucket_id), params.noise_aug_strength},
                                        torch::kDouble)
                              .to(tensor_options())
                              .repeat({embeddings.size(0), 1});
    if (params.max_guidance_scale <= 1) return {{"encoder_hidden_states", embeddings}, {"added_time_ids", time_ids}};
    return {{"encoder_hidden_states", torch::cat({torch::zeros_like(embeddings), embeddings})},
            {"added_time_ids", torch::cat({time_ids, time_ids})}};
  }

  StableVideoDiffusionResult run(const torch::Tensor& image, const StableVideoDiffusionParams& asked) const {
    const auto params = check(image, asked);
    const torch::NoGradGuard no_grad;
    scheduler->set_timesteps(params.num_inference_steps);
    const auto images = as_batch(image);
    NoiseGenerator noise(params.seeds);
    const auto result = denoise(
        unet, *scheduler, {.begin = 0, .end = scheduler->timesteps().size(0)}, prepare(images, params, noise),
        make_conditions(images, params),
        {.guidance_scale = guidance(params, tensor_options()), .step = {.noise = &noise}, .callback = params.callback});
    const bool decoded = params.decode && !result.cancelled;
    return {.frames = decoded ? vae.decode(result.latents, *params.decode_chunk_size) : torch::Tensor(),
            .latents = result.latents,
            .cancelled = result.cancelled};
  }

  torch::Device device;
  torch::Dtype dtype;
  SchedulerSource scheduler_source;
  std::unique_ptr<Scheduler> scheduler;
  ImageEncoder image_encoder;
  UNet unet;
  VideoAutoencoder vae;
  VideoTraits traits;
};

StableVideoDiffusionPipeline::StableVideoDiffusionPipeline(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
StableVideoDiffusionPipeline::~StableVideoDiffusionPipeline() = default;
StableVideoDiffusionPipeline::StableVideoDiffusionPipeline(StableVideoDiffusionPipeline&&) noexcept = default;
StableVideoDiffusionPipeline& StableVideoDiffusionPipeline::operator=(StableVideoDiffusionPipeline&&) noexcept =
    default;

StableVideoDiffusionPipeline StableVideoDiffusionPipeline::load(const std::filesystem::path& folder,
                                                                const LoadOptions& options) {
  check_device(options.device);
  check_no_controlnets(options);
  const ModelPackage package(folder);
  auto impl = std::make_unique<Impl>(check_family(package, folder, {"stable-video-diffusion"}), options);
  log(LogLevel::kInfo,
      fmt::format("{}: {} on {}, {} branches, {}, {} frames", folder.string(), c10::toString(impl->dtype),
                  options.device.str(), impl->unet.num_branches(), impl->scheduler->name(), impl->traits.num_frames));
  return StableVideoDiffusionPipeline(std::move(impl));
}

StableVideoDiffusionResult StableVideoDiffusionPipeline::operator()(const torch::Tensor& image,
                                                                    const StableVideoDiffusionParams& params) {
  return impl_->run(image, params);
}

void StableVideoDiffusionPipeline::validate(const torch::Tensor& image,
                                            const StableVideoDiffusionParams& params) const {
  impl_->check(image, params);
}

StableVideoDiffusionParams StableVideoDiffusionPipeline::resolve(const StableVideoDiffusionParams& params) const {
  return deepcache::resolve(params, impl_->traits);
}

std::vector<std::int64_t> StableVideoDiffusionPipeline::latent_shape(std::size_t num_images,
                                                                     const StableVideoDiffusionParams& params) const {
  return deepcache::latent_shape(static_cast<std::int64_t>(num_images), resolve(params), impl_->traits);
}

std::int64_t StableVideoDiffusionPipeline::vae_scale_factor() const {
  return impl_->traits.vae_scale_factor;
}

torch::Tensor StableVideoDiffusionPipeline::decode(const torch::Tensor& latents,
                                                   std::optional<std::int64_t> decode_chunk_size) const {
  const auto channels = impl_->traits.latent_channels;
  check_argument(latents.defined() && latents.dim() == 5 && latents.numel() > 0 && latents.size(2) == channels,
                 "latents must be [B, F, {}, h, w], got [{}]", channels,
                 latents.defined() ? fmt::format("{}", fmt::join(latents.sizes(), ", ")) : "");
  const auto chunk_size = decode_chunk_size.value_or(latents.size(1));
  check_argument(chunk_size >= 1, "decode_chunk_size must be 1 frame or more, got {}", chunk_size);
  const torch::NoGradGuard no_grad;
  return impl_->vae.decode(latents, chunk_size);
}

void StableVideoDiffusionPipeline::set_scheduler(std::string_view class_name) {
  impl_->scheduler = impl_->scheduler_source.make(class_name);
}

std::string StableVideoDiffusionPipeline::scheduler_name() const {
  return impl_->scheduler->configured_name();
}

std::string StableVideoDiffusionPipeline::model_type() const {
  constexpr std::int64_t kFramesOfXt = 25;
  std::string name = "svd";
  if (impl_->traits.num_frames == kFramesOfXt) name += "-xt";
  return name;
}

UNet StableVideoDiffusionPipeline::unet() const {
  return impl_->unet;
}

}  // namespace deepcache
