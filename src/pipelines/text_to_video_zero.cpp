#include "deepcache/text_to_video_zero.hpp"

#include <torch/types.h>

#include "deepcache/noise.hpp"
#include "deepcache/scheduler.hpp"
#include "error.hpp"
#include "log.hpp"
#include "models/autoencoder.hpp"
#include "models/model_package.hpp"
#include "pipelines/background_smoothing.hpp"
#include "pipelines/checks.hpp"
#include "pipelines/conditions.hpp"
#include "pipelines/denoising_loop.hpp"
#include "pipelines/load_unet.hpp"
#include "pipelines/prepare_latents.hpp"
#include "pipelines/prompt_encoder.hpp"
#include "pipelines/scheduler_source.hpp"
#include "pipelines/text_to_video_zero_request.hpp"

namespace deepcache {
namespace {

const ModelPackage& check_package(const ModelPackage& package, const std::filesystem::path& folder) {
  check_data(package.family() == "text-to-video-zero",
             "{} holds a model of family \"{}\"; this pipeline runs text-to-video-zero (export a Stable Diffusion with "
             "--as text-to-video-zero)",
             folder.string(), package.family());
  return package;
}

ModelTraits read_traits(const ModelPackage& package, const Autoencoder& vae) {
  const auto latent_channels = vae.config().latent_channels;
  return package.read("unet/config.json", [&](const ConfigReader& config) {
    for (const char* key : {"in_channels", "sample_size"}) config.require(key);
    const auto in_channels = config.integer("in_channels", 4, 1, 1000);
    check_data(in_channels == latent_channels, "in_channels must be the VAE's {}, got {}", latent_channels,
               in_channels);
    return ModelTraits{.in_channels = in_channels,
                       .latent_channels = latent_channels,
                       .sample_size = config.integer("sample_size", 64, 1, 100000),
                       .vae_scale_factor = vae.config().factor};
  });
}

/// Whose samples are those of DDPM's process: the motion is added in the middle of it. Python fails on the others'
/// fractional timesteps.
std::unique_ptr<Scheduler> make_scheduler(const SchedulerSource& source, std::string_view class_name) {
  auto scheduler = source.make(class_name);
  check_argument(scheduler->noise_process() == NoiseProcess::kVariancePreserving,
                 "Text2Video-Zero needs a scheduler whose samples are those of DDPM's process, such as ddim, plms or "
                 "dpm++_2m, got {}",
                 scheduler->name());
  return scheduler;
}

}  // namespace

struct TextToVideoZeroPipeline::Impl {
  Impl(const ModelPackage& package, const LoadOptions& options)
      : latent_options(torch::TensorOptions().dtype(package.dtype()).device(options.device)),
        scheduler_source(package),
        scheduler(make_scheduler(scheduler_source, options.scheduler)),
        prompt_encoder(package, options.device),
        unet(load_unet(package, options)),
        vae(package, options.device, options.compute_dtype),
        traits(read_traits(package, vae)) {
    check_inputs(unet, {"sample", "timestep", "encoder_hidden_states"});
  }

  /// All that can be wrong with a request is found here, before anything is computed.
  TextToVideoZeroParams check(const std::string& prompt, const TextToVideoZeroParams& asked) const {
    auto params = deepcache::resolve(asked, traits);
    const auto scheduled = scheduler->clone();  // not the pipeline's own, which may be in a run
    scheduled->set_timesteps(params.num_inference_steps);
    check_video_request(prompt, params, traits, *scheduled);
    prompt_encoder.validate({prompt}, first_frame(params, traits));
    return params;
  }

  /// Latents of all frames at t1, of the first one at t1 and at t0: with motion, and noised again (section 3.3.1).
  torch::Tensor part_frames(const TextToVideoZeroParams& params, const VideoParts& parts, const torch::Tensor& at_t1,
                            const torch::Tensor& at_t0, NoiseGenerator& noise) const {
    const auto field = motion_field(params);
    const auto moved = warp(at_t0, field);
    const auto timestep = [&](const StepRange& part) { return scheduler->timesteps()[part.end].item<std::int64_t>(); };
    const auto noised = scheduler->add_noise_between(moved, noise.randn(moved.sizes(), moved.options()),
                                                     timestep(parts.first_to_t0), timestep(parts.first_to_t1));
    const auto frames = torch::cat({at_t1, noised});
    return params.foreground_mask.defined()
               ? smooth_background(frames, params.foreground_mask, field, params.smooth_bg_strength)
               : frames;
  }

  /// One of the run's parts, whose steps the callback sees as the run's.
  Denoised denoise_part(Scheduler& with, const StepRange& part, std::int64_t calls_before, std::int64_t calls,
                        const torch::Tensor& latents, const Conditions& conditions, DenoisingOptions options) const {
    if (options.callback)
      options.callback = [=, callback = std::move(options.callback)](const PipelineStep& step) {
        return callback({calls_before + step.step_index, calls, step.timestep, step.latents});
      };
    options.continues = calls_before > 0;
    return denoise(unet, with, part, {.latents = latents}, conditions, options);
  }

  Denoised denoise_video(const std::string& prompt, const TextToVideoZeroParams& params) {
    scheduler->set_timesteps(params.num_inference_steps);
    const auto first = first_frame(params, traits);
    const auto parts = parts_of(params, scheduler->timesteps().size(0));
    const auto conditions = make_conditions({prompt}, first, traits, prompt_encoder);
    NoiseGenerator noise(params.seeds);
    const DenoisingOptions denoising{.guidance_scale = params.guidance_scale > 1
                                                           ? torch::tensor(params.guidance_scale, torch::kDouble)
                                                           : torch::Tensor(),
                                     .step = {.eta = params.eta, .noise = &noise},
                                     .callback = params.callback};
    const auto run = [&](Scheduler& with, const StepRange& part, std::int64_t before, const torch::Tensor& latents) {
      return denoise_part(with, part, before, parts.calls(), latents, conditions, denoising);
    };

    const auto prepared = prepare_latents({.params = first,
                                           .traits = traits,
                                           .scheduler = *scheduler,
                                           .vae = vae,
                                           .range = parts.first_to_t1,
                                           .shape = deepcache::latent_shape(1, first, traits),
                                           .options = latent_options,
                                           .noise = noise});
    auto at_t1 = run(*scheduler, parts.first_to_t1, 0, prepared.latents);
    if (at_t1.cancelled) return at_t1;
    // All frames go on from t1 with what the scheduler knows of the first one there.
    const auto ahead = scheduler->clone();
    auto at_t0 = run(*ahead, parts.first_to_t0, parts.first_to_t1.size(), at_t1.latents);
    if (at_t0.cancelled) return at_t0;
    return run(*scheduler, parts.all_from_t1, parts.first_to_t0.end,
               part_frames(params, parts, at_t1.latents, at_t0.latents, noise));
  }

  TextToVideoZeroResult run(const std::string& prompt, const TextToVideoZeroParams& asked) {
    const auto params = check(prompt, asked);
    const torch::NoGradGuard no_grad;
    const auto result = denoise_video(prompt, params);
    const bool decoded = params.decode && !result.cancelled;
    return {.frames = decoded ? vae.decode(result.latents, params.vae) : torch::Tensor(),
            .latents = result.latents,
            .cancelled = result.cancelled};
  }

  torch::TensorOptions latent_options;
  SchedulerSource scheduler_source;
  std::unique_ptr<Scheduler> scheduler;
  PromptEncoder prompt_encoder;
  UNet unet;
  Autoencoder vae;
  ModelTraits traits;
  std::string model_type = "text2video-zero";
};

TextToVideoZeroPipeline::TextToVideoZeroPipeline(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
TextToVideoZeroPipeline::~TextToVideoZeroPipeline() = default;
TextToVideoZeroPipeline::TextToVideoZeroPipeline(TextToVideoZeroPipeline&&) noexcept = default;
TextToVideoZeroPipeline& TextToVideoZeroPipeline::operator=(TextToVideoZeroPipeline&&) noexcept = default;

TextToVideoZeroPipeline TextToVideoZeroPipeline::load(const std::filesystem::path& folder, const LoadOptions& options) {
  check_device(options.device);
  check_no_controlnets(options);
  const ModelPackage package(folder);
  auto impl = std::make_unique<Impl>(check_package(package, folder), options);
  log(LogLevel::kInfo, fmt::format("{}: {} on {}, {} branches, {}", folder.string(), c10::toString(package.dtype()),
                                   options.device.str(), impl->unet.num_branches(), impl->scheduler->name()));
  return TextToVideoZeroPipeline(std::move(impl));
}

TextToVideoZeroResult TextToVideoZeroPipeline::operator()(const std::string& prompt,
                                                          const TextToVideoZeroParams& params) {
  return impl_->run(prompt, params);
}

void TextToVideoZeroPipeline::validate(const std::string& prompt, const TextToVideoZeroParams& params) const {
  impl_->check(prompt, params);
}

TextToVideoZeroParams TextToVideoZeroPipeline::resolve(const TextToVideoZeroParams& params) const {
  return deepcache::resolve(params, impl_->traits);
}

std::vector<std::int64_t> TextToVideoZeroPipeline::latent_shape(const TextToVideoZeroParams& params) const {
  const auto& traits = impl_->traits;
  const auto resolved = resolve(params);
  check_argument(resolved.video_length >= 1, "video_length must be 1 or above, got {}", resolved.video_length);
  check_side(resolved.height, "height", traits.vae_scale_factor);
  check_side(resolved.width, "width", traits.vae_scale_factor);
  return deepcache::latent_shape(static_cast<std::size_t>(resolved.video_length), first_frame(resolved, traits),
                                 traits);
}

torch::Tensor TextToVideoZeroPipeline::decode(const torch::Tensor& latents, const VaeOptions& options) const {
  return decode_latents(impl_->vae, latents, options);
}

std::int64_t TextToVideoZeroPipeline::vae_scale_factor() const {
  return impl_->traits.vae_scale_factor;
}

void TextToVideoZeroPipeline::set_scheduler(std::string_view class_name) {
  impl_->scheduler = make_scheduler(impl_->scheduler_source, class_name);
}

std::string TextToVideoZeroPipeline::scheduler_name() const {
  return impl_->scheduler->configured_name();
}

std::string TextToVideoZeroPipeline::model_type() const {
  return impl_->model_type;
}

UNet TextToVideoZeroPipeline::unet() const {
  return impl_->unet;
}

}  // namespace deepcache
