#include "deepcache/stable_diffusion.hpp"

#include <torch/types.h>

#include <algorithm>
#include <array>
#include <cmath>

#include "core/torchscript.hpp"
#include "deepcache/noise.hpp"
#include "deepcache/scheduler.hpp"
#include "error.hpp"
#include "log.hpp"
#include "models/autoencoder.hpp"
#include "models/model_package.hpp"
#include "pipelines/denoising_loop.hpp"
#include "pipelines/prompt_encoder.hpp"

namespace deepcache {
namespace {

constexpr std::array kFamilies{"stable-diffusion", "stable-diffusion-xl"};

const ModelPackage& check_family(const ModelPackage& package, const std::filesystem::path& folder) {
  check_data(std::ranges::find(kFamilies, package.family()) != kFamilies.end(),
             "{} holds a model of family \"{}\"; this pipeline runs {}", folder.string(), package.family(),
             fmt::join(kFamilies, ", "));
  return package;
}

/// What the pipeline needs of unet/config.json.
struct UNetConfig {
  std::int64_t in_channels;
  std::int64_t sample_size;  // latents of the model's own image size
};

UNetConfig read_unet_config(const ConfigReader& config) {
  for (const char* key : {"in_channels", "sample_size"}) config.require(key);
  return {.in_channels = config.integer("in_channels", 4, 1, 1000),
          .sample_size = config.integer("sample_size", 64, 1, 100000)};
}

/// SDXL's micro-conditioning [1, 6] (arXiv 2307.01952, section 2.2), every size as height, width.
torch::Tensor time_ids(const ImageSize& original, const ImageSize& crop, const ImageSize& target) {
  return torch::tensor({original.height, original.width, crop.height, crop.width, target.height, target.width})
      .view({1, 6});
}

}  // namespace

struct StableDiffusionPipeline::Impl {
  Impl(const ModelPackage& package, torch::Device target, std::string_view scheduler_class)
      : device(target),
        dtype(package.dtype()),
        config(package.read("unet/config.json", read_unet_config)),
        scheduler_config(package.file("scheduler/scheduler_config.json")),
        scheduler(Scheduler::from_config(scheduler_config, scheduler_class)),
        prompt_encoder(package, device),
        unet(UNet::load(package.file("unet/model.pt"), device, dtype)),
        vae(package, device) {
    const std::array known{"sample", "timestep", "encoder_hidden_states", "text_embeds", "time_ids"};
    for (const auto& name : unet.input_names())
      check_data(std::ranges::find(known, name) != known.end(), "the UNet has an input \"{}\"; this pipeline knows {}",
                 name, fmt::join(known, ", "));
  }

  /// The latents' height or width for a number of pixels.
  std::int64_t latent_side(std::int64_t pixels, const char* name) const {
    if (pixels == 0) return config.sample_size;
    const auto below = std::max<std::int64_t>(1, pixels / vae.factor()) * vae.factor();
    check_argument(pixels > 0 && pixels % vae.factor() == 0,
                   "{} must be a positive multiple of {} for this model; the nearest to {} are {} and {}", name,
                   vae.factor(), pixels, below, below + vae.factor());
    return pixels / vae.factor();
  }

  std::vector<std::int64_t> latent_shape(const std::vector<std::string>& prompts,
                                         const StableDiffusionParams& params) const {
    return {static_cast<std::int64_t>(prompts.size()) * params.num_images_per_prompt, config.in_channels,
            latent_side(params.height, "height"), latent_side(params.width, "width")};
  }

  bool is_xl() const { return std::ranges::count(unet.input_names(), "time_ids") > 0; }

  /// One half of the batch, or all of it.
  Conditions conditions(const PromptEmbeddings& prompts, const torch::Tensor& ids, std::int64_t repeats) const {
    return {{"encoder_hidden_states", prompts.states.repeat_interleave(repeats, 0)},
            {"text_embeds", prompts.pooled.repeat_interleave(repeats, 0)},
            {"time_ids", ids.to(device, dtype).repeat({prompts.states.size(0) * repeats, 1})}};
  }

  Conditions conditions(const std::vector<std::string>& prompts, const StableDiffusionParams& params) const {
    const ImageSize size{latent_side(params.height, "height") * vae.factor(),
                         latent_side(params.width, "width") * vae.factor()};
    const auto ids =
        time_ids(params.original_size.value_or(size), params.crops_coords_top_left, params.target_size.value_or(size));
    const auto encoded = prompt_encoder.encode(prompts, params);
    auto all = conditions(encoded.prompts, ids, params.num_images_per_prompt);
    if (!encoded.negative) return all;
    const bool own_ids = params.negative_original_size && params.negative_target_size;  // as in Python, both or none
    const auto negative_ids = own_ids ? time_ids(*params.negative_original_size, params.negative_crops_coords_top_left,
                                                 *params.negative_target_size)
                                      : ids;
    const auto batch = static_cast<std::int64_t>(prompts.size()) * params.num_images_per_prompt;
    const auto negative = conditions(*encoded.negative, negative_ids, batch);
    for (auto& [name, value] : all) value = torch::cat({negative.at(name), value});
    return all;
  }

  /// All that can be wrong with a request is found here, before anything is computed.
  void validate(const std::vector<std::string>& prompts, const StableDiffusionParams& params) const {
    check_argument(!prompts.empty(), "there must be one prompt or more, got none");
    check_argument(params.num_images_per_prompt >= 1, "num_images_per_prompt must be 1 or above, got {}",
                   params.num_images_per_prompt);
    check_argument(std::isfinite(params.guidance_scale), "guidance_scale must be a finite number, got {}",
                   params.guidance_scale);
    check_argument(params.eta >= 0 && params.eta <= 1, "eta must be 0 to 1, got {}", params.eta);
    check_argument(params.eta == 0 || scheduler->has_ddim_options(), "eta is an option of DDIM; {} has none, got {}",
                   scheduler->name(), params.eta);
    const auto shape = latent_shape(prompts, params);
    check_argument(params.seeds.size() == 1 || params.seeds.size() == static_cast<std::size_t>(shape[0]),
                   "there must be one seed, or one for each of the {} images, got {}", shape[0], params.seeds.size());
    if (params.latents.defined())
      check_argument(params.latents.sizes() == shape && params.latents.is_floating_point(),
                     "latents must be floating-point values of shape [{}], got {} [{}]", fmt::join(shape, ", "),
                     c10::toString(params.latents.scalar_type()), fmt::join(params.latents.sizes(), ", "));
    scheduler->set_timesteps(params.num_inference_steps);
    check_argument(params.guidance_rescale >= 0 && params.guidance_rescale <= 1,
                   "guidance_rescale must be 0 to 1, got {}", params.guidance_rescale);
    check_argument(is_xl() || !(params.prompt_2 || params.negative_prompt_2 || params.original_size ||
                                params.target_size || params.negative_original_size || params.negative_target_size),
                   "prompt_2, negative_prompt_2 and the sizes that a model is told of are SDXL's; this isn't one");
    prompt_encoder.validate(prompts, params);
  }

  StableDiffusionResult run(const std::vector<std::string>& prompts, const StableDiffusionParams& params) {
    validate(prompts, params);
    const torch::NoGradGuard no_grad;
    const auto options = torch::TensorOptions().dtype(dtype).device(device);
    NoiseGenerator noise(params.seeds);
    auto latents =
        params.latents.defined() ? params.latents.to(options) : noise.randn(latent_shape(prompts, params), options);
    const auto result = denoise(unet, *scheduler, latents * scheduler->init_noise_sigma(), conditions(prompts, params),
                                {.guidance_scale = params.guidance_scale,
                                 .guidance_rescale = params.guidance_rescale,
                                 .step = {.eta = params.eta, .noise = &noise},
                                 .callback = params.callback});
    const bool decoded = params.decode && !result.cancelled;
    return {.images = decoded ? vae.decode(result.latents) : torch::Tensor(),
            .latents = result.latents,
            .cancelled = result.cancelled};
  }

  torch::Device device;
  torch::Dtype dtype;
  UNetConfig config;
  std::filesystem::path scheduler_config;
  std::unique_ptr<Scheduler> scheduler;
  PromptEncoder prompt_encoder;
  UNet unet;
  Autoencoder vae;
};

StableDiffusionPipeline::StableDiffusionPipeline(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
StableDiffusionPipeline::~StableDiffusionPipeline() = default;
StableDiffusionPipeline::StableDiffusionPipeline(StableDiffusionPipeline&&) noexcept = default;
StableDiffusionPipeline& StableDiffusionPipeline::operator=(StableDiffusionPipeline&&) noexcept = default;

StableDiffusionPipeline StableDiffusionPipeline::load(const std::filesystem::path& folder, torch::Device device,
                                                      std::string_view scheduler) {
  check_device(device);
  const ModelPackage package(folder);
  auto impl = std::make_unique<Impl>(check_family(package, folder), device, scheduler);
  log(LogLevel::kInfo, fmt::format("{}: {} on {}, {} branches, {}", folder.string(), c10::toString(impl->dtype),
                                   device.str(), impl->unet.num_branches(), impl->scheduler->name()));
  return StableDiffusionPipeline(std::move(impl));
}

StableDiffusionResult StableDiffusionPipeline::operator()(const std::string& prompt,
                                                          const StableDiffusionParams& params) {
  return impl_->run({prompt}, params);
}

StableDiffusionResult StableDiffusionPipeline::operator()(const std::vector<std::string>& prompts,
                                                          const StableDiffusionParams& params) {
  return impl_->run(prompts, params);
}

void StableDiffusionPipeline::validate(const std::vector<std::string>& prompts,
                                       const StableDiffusionParams& params) const {
  impl_->validate(prompts, params);
}

torch::Tensor StableDiffusionPipeline::decode(const torch::Tensor& latents) const {
  const torch::NoGradGuard no_grad;
  return impl_->vae.decode(latents);
}

void StableDiffusionPipeline::set_scheduler(std::string_view class_name) {
  impl_->scheduler = Scheduler::from_config(impl_->scheduler_config, class_name);
}

std::string StableDiffusionPipeline::scheduler_name() const {
  return impl_->scheduler->name();
}

UNet StableDiffusionPipeline::unet() const {
  return impl_->unet;
}

}  // namespace deepcache
