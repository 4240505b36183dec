#include "deepcache/stable_diffusion.hpp"

#include <torch/types.h>

#include <algorithm>
#include <array>

#include "core/torchscript.hpp"
#include "deepcache/noise.hpp"
#include "deepcache/scheduler.hpp"
#include "error.hpp"
#include "log.hpp"
#include "models/autoencoder.hpp"
#include "models/model_package.hpp"
#include "pipelines/checks.hpp"
#include "pipelines/controlnets.hpp"
#include "pipelines/denoising_loop.hpp"
#include "pipelines/load_unet.hpp"
#include "pipelines/prepare_latents.hpp"
#include "pipelines/prompt_encoder.hpp"
#include "pipelines/request.hpp"
#include "pipelines/scheduler_source.hpp"
#include "pipelines/step_range.hpp"

namespace deepcache {
namespace {

/// That the UNet reads as many numbers besides the pooled embedding as this kind of SDXL is told.
void check_time_ids(const ModelPackage& package, const ModelTraits& traits) {
  const auto pooled = package.read("text_encoder_2/config.json", [](const ConfigReader& config) {
    return config.integer("projection_dim", 1280, 1, 1000000);
  });
  package.read("unet/config.json", [&](const ConfigReader& config) {
    const auto width = config.integer("projection_class_embeddings_input_dim", 2816, 1, 1000000);
    const auto ids = config.integer("addition_time_embed_dim", 256, 1, 1000000) * (traits.has_aesthetics_score ? 5 : 6);
    check_data(width == pooled + ids,
               "projection_class_embeddings_input_dim must be text_encoder_2's {} and {} for sizes, crops and, with "
               "requires_aesthetics_score in model_index.json, a score; got {}",
               pooled, ids, width);
    return 0;
  });
}

ModelTraits read_traits(const ModelPackage& package, const UNet& unet, const Autoencoder& vae) {
  const auto names = unet.input_names();
  ModelTraits traits{.is_xl = std::ranges::find(names, "time_ids") != names.end(),
                     .has_aesthetics_score = package.read(
                         "model_index.json",
                         [](const ConfigReader& config) { return config.boolean("requires_aesthetics_score", false); }),
                     .latent_channels = vae.config().latent_channels,
                     .vae_scale_factor = vae.config().factor};
  package.read("unet/config.json", [&](const ConfigReader& config) {
    for (const char* key : {"in_channels", "sample_size"}) config.require(key);
    traits.in_channels = config.integer("in_channels", 4, 1, 1000);
    traits.cross_attention_dim = config.integer("cross_attention_dim", 1280, 1, 1000000);
    traits.sample_size = config.integer("sample_size", 64, 1, 100000);
    const auto painting = 2 * traits.latent_channels + 1;
    check_data(traits.in_channels == traits.latent_channels || traits.in_channels == painting,
               "in_channels must be the VAE's {}, or {} for inpainting, got {}", traits.latent_channels, painting,
               traits.in_channels);
    return 0;
  });
  if (traits.is_xl) check_time_ids(package, traits);
  return traits;
}

void check_inputs(const UNet& unet) {
  constexpr std::array known{"sample", "timestep", "encoder_hidden_states", "text_embeds", "time_ids"};
  for (const auto& name : unet.input_names())
    check_data(std::ranges::find(known, name) != known.end(), "the UNet has an input \"{}\"; this pipeline knows {}",
               name, fmt::join(known, ", "));
}

}  // namespace

struct StableDiffusionPipeline::Impl {
  Impl(const ModelPackage& package, const LoadOptions& options)
      : device(options.device),
        dtype(package.dtype()),
        scheduler_source(package),
        scheduler(scheduler_source.make(options.scheduler)),
        prompt_encoder(package, device),
        unet(load_unet(package, options)),
        vae(package, device, options.compute_dtype),
        traits(read_traits(package, unet, vae)) {
    check_inputs(unet);
    unet = with_controlnets(unet, package, traits.vae_scale_factor, options.controlnets);
    traits.num_controlnets = options.controlnets.size();
  }

  /// All that can be wrong with a request is found here, before anything is computed.
  StableDiffusionParams check(const std::vector<std::string>& prompts, const StableDiffusionParams& asked) const {
    auto params = deepcache::resolve(asked, traits);
    check_request(prompts, params, traits);
    check_eta(params.eta, *scheduler);
    set_timesteps(*scheduler->clone(), params);  // not the pipeline's own, which may be in a run
    prompt_encoder.validate(prompts, params);
    vae.prepare(params.vae, params.image.defined() && (!holds_latents(params, traits) || traits.is_inpainting()));
    return params;
  }

  StableDiffusionResult run(const std::vector<std::string>& prompts, const StableDiffusionParams& asked) {
    const auto params = check(prompts, asked);
    const torch::NoGradGuard no_grad;
    const auto range = set_timesteps(*scheduler, params);
    NoiseGenerator noise(params.seeds);
    const auto prepared = prepare_latents({.params = params,
                                           .traits = traits,
                                           .scheduler = *scheduler,
                                           .vae = vae,
                                           .range = range,
                                           .shape = deepcache::latent_shape(prompts.size(), params, traits),
                                           .options = torch::TensorOptions().dtype(dtype).device(device),
                                           .noise = noise});
    const auto result =
        denoise(unet, *scheduler, range, prepared, make_conditions(prompts, params, traits, prompt_encoder),
                {.guidance_scale = *params.guidance_scale > 1 ? torch::tensor(*params.guidance_scale, torch::kDouble)
                                                              : torch::Tensor(),
                 .guidance_rescale = params.guidance_rescale,
                 .schedules = control_schedules(params, scheduler->timesteps().size(0) - range.begin),
                 .step = {.eta = params.eta, .noise = &noise},
                 .callback = params.callback});
    const bool decoded = params.decode && !result.cancelled;
    return {.images = decoded ? vae.decode(result.latents, params.vae) : torch::Tensor(),
            .latents = result.latents,
            .cancelled = result.cancelled};
  }

  torch::Device device;
  torch::Dtype dtype;
  SchedulerSource scheduler_source;
  std::unique_ptr<Scheduler> scheduler;
  PromptEncoder prompt_encoder;
  UNet unet;
  Autoencoder vae;
  ModelTraits traits;
};

StableDiffusionPipeline::StableDiffusionPipeline(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
StableDiffusionPipeline::~StableDiffusionPipeline() = default;
StableDiffusionPipeline::StableDiffusionPipeline(StableDiffusionPipeline&&) noexcept = default;
StableDiffusionPipeline& StableDiffusionPipeline::operator=(StableDiffusionPipeline&&) noexcept = default;

StableDiffusionPipeline StableDiffusionPipeline::load(const std::filesystem::path& folder, const LoadOptions& options) {
  check_device(options.device);
  const ModelPackage package(folder);
  auto impl =
      std::make_unique<Impl>(check_family(package, folder, {"stable-diffusion", "stable-diffusion-xl"}), options);
  log(LogLevel::kInfo, fmt::format("{}: {} on {}, {} branches, {}", folder.string(), c10::toString(impl->dtype),
                                   options.device.str(), impl->unet.num_branches(), impl->scheduler->name()));
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
  impl_->check(prompts, params);
}

StableDiffusionParams StableDiffusionPipeline::resolve(const StableDiffusionParams& params) const {
  return deepcache::resolve(params, impl_->traits);
}

std::vector<std::int64_t> StableDiffusionPipeline::latent_shape(std::size_t num_prompts,
                                                                const StableDiffusionParams& params) const {
  return deepcache::latent_shape(num_prompts, resolve(params), impl_->traits);
}

std::string StableDiffusionPipeline::model_type() const {
  constexpr std::int64_t kSd15 = 768, kSd21 = 1024;  // the width of their text encoders
  const auto& traits = impl_->traits;
  auto family = std::string(traits.is_xl ? "sdxl" : "sd");
  if (traits.has_aesthetics_score) return family + "-refiner";
  if (traits.is_inpainting()) return family + "-inpaint";
  if (traits.is_xl) return family;
  const auto width = traits.cross_attention_dim;
  return family + (width == kSd15 ? "1.5" : width == kSd21 ? "2.1" : "");
}

std::int64_t StableDiffusionPipeline::vae_scale_factor() const {
  return impl_->traits.vae_scale_factor;
}

bool StableDiffusionPipeline::shares_latents_with(const StableDiffusionPipeline& other) const {
  return impl_->vae.shares_latents_with(other.impl_->vae) &&
         impl_->scheduler->noise_process() == other.impl_->scheduler->noise_process();
}

torch::Tensor StableDiffusionPipeline::decode(const torch::Tensor& latents, const VaeOptions& options) const {
  return decode_latents(impl_->vae, latents, options);
}

void StableDiffusionPipeline::set_scheduler(std::string_view class_name) {
  impl_->scheduler = impl_->scheduler_source.make(class_name);
}

std::string StableDiffusionPipeline::scheduler_name() const {
  return impl_->scheduler->configured_name();
}

UNet StableDiffusionPipeline::unet() const {
  return impl_->unet;
}

}  // namespace deepcache
