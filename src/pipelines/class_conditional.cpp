#include "deepcache/class_conditional.hpp"

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
#include "pipelines/checks.hpp"
#include "pipelines/denoising_loop.hpp"
#include "pipelines/load_unet.hpp"
#include "pipelines/prepare_latents.hpp"
#include "pipelines/scheduler_source.hpp"

namespace deepcache {
namespace {

struct Traits {
  std::int64_t in_channels;  ///< of the UNet, and so of the latents
  std::int64_t sample_size;  ///< latents of the model's own image size
  std::int64_t num_classes;  ///< the unconditional one, which is the last, included
  std::int64_t vae_factor;   ///< pixels to a latent
};

Traits read_traits(const ModelPackage& package, const UNet& unet, const Autoencoder& vae) {
  check_inputs(unet, {"sample", "timestep", "encoder_hidden_states"});
  Traits traits{.in_channels = 0, .sample_size = 0, .num_classes = 0, .vae_factor = vae.config().factor};
  const auto codes = package.read("vae/config.json", [&](const ConfigReader& config) {
    return config.integer("vq_embed_dim", vae.config().latent_channels, 1, 1000);
  });
  const auto embedding = package.read("class_embedder/config.json", [&](const ConfigReader& config) {
    for (const char* key : {"embed_dim", "n_classes"}) config.require(key);
    traits.num_classes = config.integer("n_classes", 0, 2, 1'000'000);  // one class, and the unconditional one
    return config.integer("embed_dim", 0, 1, 1'000'000);
  });
  package.read("unet/config.json", [&](const ConfigReader& config) {
    for (const char* key : {"in_channels", "sample_size"}) config.require(key);
    traits.in_channels = config.integer("in_channels", 0, 1, 1000);
    check_data(traits.in_channels == codes, "in_channels must be the VAE's {}, got {}", codes, traits.in_channels);
    const auto width = config.integer("cross_attention_dim", 1280, 1, 1'000'000);
    check_data(width == embedding, "cross_attention_dim must be the class embedder's {}, got {}", embedding, width);
    traits.sample_size = config.integer("sample_size", 0, 1, 100000);
    return 0;
  });
  return traits;
}

std::int64_t latent_side(std::int64_t pixels, const char* name, const Traits& traits) {
  check_side(pixels, name, traits.vae_factor);
  return pixels / traits.vae_factor;
}

std::vector<std::int64_t> shape_of_latents(std::size_t num_labels, const ClassConditionalParams& params,
                                           const Traits& traits) {
  return {static_cast<std::int64_t>(num_labels) * params.num_images_per_label, traits.in_channels,
          latent_side(params.height, "height", traits), latent_side(params.width, "width", traits)};
}

void check_request(const std::vector<std::int64_t>& class_labels, const ClassConditionalParams& params,
                   const Traits& traits) {
  check_argument(!class_labels.empty(), "there must be one class label or more, got none");
  for (const auto label : class_labels)
    check_argument(label >= 0 && label < traits.num_classes,
                   "class labels must be from 0 to {}, of which the last is no class (unconditional), got {}",
                   traits.num_classes - 1, label);
  check_argument(params.num_images_per_label >= 1, "num_images_per_label must be 1 or above, got {}",
                 params.num_images_per_label);
  check_argument(std::isfinite(params.guidance_scale), "guidance_scale must be a finite number, got {}",
                 params.guidance_scale);
  check_start(params.seeds, params.latents, shape_of_latents(class_labels.size(), params, traits));
}

}  // namespace

struct ClassConditionalPipeline::Impl {
  Impl(const ModelPackage& package, const LoadOptions& options)
      : device(options.device),
        dtype(package.dtype()),
        scheduler_source(package),
        scheduler(scheduler_source.make(options.scheduler)),
        class_embedder(package.network("class_embedder/model.pt"), device),
        unet(load_unet(package, options)),
        vae(package, device, options.compute_dtype),
        traits(read_traits(package, unet, vae)) {}

  ClassConditionalParams resolve(ClassConditionalParams params) const {
    const auto own = traits.sample_size * traits.vae_factor;
    if (params.height == 0) params.height = own;
    if (params.width == 0) params.width = own;
    return params;
  }

  /// All that can be wrong with a request is found here, before anything is computed.
  ClassConditionalParams check(const std::vector<std::int64_t>& class_labels,
                               const ClassConditionalParams& asked) const {
    auto params = resolve(asked);
    check_request(class_labels, params, traits);
    check_eta(params.eta, *scheduler);
    scheduler->clone()->set_timesteps(params.num_inference_steps);  // not the pipeline's own, which may be in a run
    return params;
  }

  /// [B, 1, D]; under guidance [2B, 1, D], the unconditional half first.
  torch::Tensor embed(const std::vector<std::int64_t>& class_labels, const ClassConditionalParams& params,
                      bool guided) const {
    auto labels = torch::tensor(class_labels, torch::kLong).repeat_interleave(params.num_images_per_label);
    if (guided) labels = torch::cat({torch::full_like(labels, traits.num_classes - 1), labels});
    return class_embedder(labels.to(device));
  }

  /// One after the other: comparing a picture's latents with the codebook takes the memory of all their distances.
  torch::Tensor decode(const torch::Tensor& latents) const { return vae.decode(latents, {.slicing = true}); }

  ClassConditionalResult run(const std::vector<std::int64_t>& class_labels, const ClassConditionalParams& asked) {
    const auto params = check(class_labels, asked);
    const torch::NoGradGuard no_grad;
    scheduler->set_timesteps(params.num_inference_steps);
    const auto options = torch::TensorOptions().dtype(dtype).device(device);
    const bool guided = params.guidance_scale != 1;  // also below it, as in the original
    NoiseGenerator noise(params.seeds);
    const auto initial =
        initial_noise(params.latents, shape_of_latents(class_labels.size(), params, traits), options, noise);
    const auto result =
        denoise(unet, *scheduler, {.begin = 0, .end = scheduler->timesteps().size(0)},
                {.latents = initial * scheduler->init_noise_sigma()},
                {{"encoder_hidden_states", embed(class_labels, params, guided)}},
                {.guidance_scale = guided ? torch::tensor(params.guidance_scale, torch::kDouble) : torch::Tensor(),
                 .step = {.eta = params.eta, .noise = &noise},
                 .callback = params.callback});
    const bool decoded = params.decode && !result.cancelled;
    return {.images = decoded ? decode(result.latents) : torch::Tensor(),
            .latents = result.latents,
            .cancelled = result.cancelled};
  }

  torch::Device device;
  torch::Dtype dtype;
  SchedulerSource scheduler_source;
  std::unique_ptr<Scheduler> scheduler;
  Network class_embedder;
  UNet unet;
  Autoencoder vae;
  Traits traits;
  std::string model_type = "ldm";
};

ClassConditionalPipeline::ClassConditionalPipeline(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
ClassConditionalPipeline::~ClassConditionalPipeline() = default;
ClassConditionalPipeline::ClassConditionalPipeline(ClassConditionalPipeline&&) noexcept = default;
ClassConditionalPipeline& ClassConditionalPipeline::operator=(ClassConditionalPipeline&&) noexcept = default;

ClassConditionalPipeline ClassConditionalPipeline::load(const std::filesystem::path& folder,
                                                        const LoadOptions& options) {
  check_device(options.device);
  check_no_controlnets(options);
  const ModelPackage package(folder);
  auto impl = std::make_unique<Impl>(check_family(package, folder, {"class-conditional"}), options);
  log(LogLevel::kInfo, fmt::format("{}: {} on {}, {} branches, {}", folder.string(), c10::toString(impl->dtype),
                                   options.device.str(), impl->unet.num_branches(), impl->scheduler->name()));
  return ClassConditionalPipeline(std::move(impl));
}

ClassConditionalResult ClassConditionalPipeline::operator()(std::int64_t class_label,
                                                            const ClassConditionalParams& params) {
  return impl_->run({class_label}, params);
}

ClassConditionalResult ClassConditionalPipeline::operator()(const std::vector<std::int64_t>& class_labels,
                                                            const ClassConditionalParams& params) {
  return impl_->run(class_labels, params);
}

void ClassConditionalPipeline::validate(const std::vector<std::int64_t>& class_labels,
                                        const ClassConditionalParams& params) const {
  impl_->check(class_labels, params);
}

ClassConditionalParams ClassConditionalPipeline::resolve(const ClassConditionalParams& params) const {
  return impl_->resolve(params);
}

std::vector<std::int64_t> ClassConditionalPipeline::latent_shape(std::size_t num_labels,
                                                                 const ClassConditionalParams& params) const {
  return shape_of_latents(num_labels, resolve(params), impl_->traits);
}

std::int64_t ClassConditionalPipeline::num_classes() const {
  return impl_->traits.num_classes;
}

std::int64_t ClassConditionalPipeline::vae_scale_factor() const {
  return impl_->traits.vae_factor;
}

torch::Tensor ClassConditionalPipeline::decode(const torch::Tensor& latents) const {
  check_latents(latents, impl_->traits.in_channels);
  const torch::NoGradGuard no_grad;
  return impl_->decode(latents);
}

void ClassConditionalPipeline::set_scheduler(std::string_view class_name) {
  impl_->scheduler = impl_->scheduler_source.make(class_name);
}

std::string ClassConditionalPipeline::scheduler_name() const {
  return impl_->scheduler->configured_name();
}

std::string ClassConditionalPipeline::model_type() const {
  return impl_->model_type;
}

UNet ClassConditionalPipeline::unet() const {
  return impl_->unet;
}

}  // namespace deepcache
