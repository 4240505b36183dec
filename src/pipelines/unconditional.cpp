#include "deepcache/unconditional.hpp"

#include <algorithm>
#include <utility>

#include "core/torchscript.hpp"
#include "deepcache/noise.hpp"
#include "deepcache/scheduler.hpp"
#include "error.hpp"
#include "models/model_package.hpp"
#include "pipelines/checks.hpp"
#include "pipelines/denoising_loop.hpp"
#include "pipelines/load_unet.hpp"
#include "pipelines/prepare_latents.hpp"
#include "pipelines/scheduler_source.hpp"

namespace deepcache {
namespace {

/// [C, H, W] of the model's pictures.
std::vector<std::int64_t> read_shape(const ConfigReader& config) {
  constexpr std::int64_t kMostPixels = 65536;
  config.require("sample_size");
  const auto channels = config.integer("in_channels", 3, 1, 3);
  const auto out_channels = config.integer("out_channels", 3, 1, 6);
  check_data(channels != 2, "in_channels must be 3, or 1 of greys, got 2");
  check_data(out_channels == channels, "out_channels must be the {} of in_channels, got {}: no learned variance",
             channels, out_channels);
  if (!config.is_list("sample_size")) {
    const auto side = config.integer("sample_size", 0, 1, kMostPixels);
    return {channels, side, side};
  }
  const auto sides = config.integers("sample_size");
  check_data(sides.size() == 2 && sides[0] > 0 && sides[1] > 0 && std::max(sides[0], sides[1]) <= kMostPixels,
             "sample_size must be a number of pixels or [height, width], each 1 to {}, got [{}]", kMostPixels,
             fmt::join(sides, ", "));
  return {channels, sides[0], sides[1]};
}

}  // namespace

struct UnconditionalPipeline::Impl {
  Impl(const ModelPackage& package, const LoadOptions& options)
      : device(options.device),
        dtype(package.dtype()),
        scheduler_source(package),
        scheduler(scheduler_source.make(options.scheduler)),
        shape(package.read("unet/config.json", read_shape)),
        unet(load_unet(package, options)) {
    check_inputs(unet, {"sample", "timestep"});
  }

  UnconditionalParams resolve(const UnconditionalParams& asked) const {
    constexpr std::int64_t kDdpmSteps = 1000, kSteps = 50;
    auto params = asked;
    if (!params.num_inference_steps)
      params.num_inference_steps =
          std::min(scheduler->name() == "DDPMScheduler" ? kDdpmSteps : kSteps, scheduler->num_train_timesteps());
    return params;
  }

  std::vector<std::int64_t> latent_shape(const UnconditionalParams& params) const {
    std::vector<std::int64_t> sizes{params.batch_size};
    sizes.insert(sizes.end(), shape.begin(), shape.end());
    return sizes;
  }

  /// All that can be wrong with a request is found here, before anything is computed.
  void check(const UnconditionalParams& params) const {
    check_argument(params.batch_size >= 1, "batch_size must be 1 or above, got {}", params.batch_size);
    check_eta(params.eta, *scheduler);
    check_argument(scheduler->has_ddim_options() || !params.use_clipped_model_output,
                   "use_clipped_model_output is an option of DDIM; {} has none", scheduler->name());
    check_start(params.seeds, params.latents, latent_shape(params));
    scheduler->clone()->set_timesteps(*params.num_inference_steps);  // not the pipeline's own, which may be in a run
  }

  UnconditionalResult run(const UnconditionalParams& params) {
    check(params);
    const torch::NoGradGuard no_grad;
    scheduler->set_timesteps(*params.num_inference_steps);
    const auto options = torch::TensorOptions().dtype(dtype).device(device);
    NoiseGenerator noise(params.seeds);
    const auto initial = initial_noise(params.latents, latent_shape(params), options, noise);
    const auto result = denoise(
        unet, *scheduler, {.begin = 0, .end = scheduler->timesteps().size(0)},
        {.latents = initial * scheduler->init_noise_sigma()}, {},
        {.step = {.eta = params.eta, .use_clipped_model_output = params.use_clipped_model_output, .noise = &noise},
         .callback = params.callback});
    const auto images = [&] { return (result.latents / 2 + 0.5).clamp(0, 1).to(torch::kCPU, torch::kFloat); };
    return {.images = result.cancelled ? torch::Tensor() : images(),
            .latents = result.latents,
            .cancelled = result.cancelled};
  }

  torch::Device device;
  torch::Dtype dtype;
  SchedulerSource scheduler_source;
  std::unique_ptr<Scheduler> scheduler;
  std::vector<std::int64_t> shape;  // of a picture
  UNet unet;
  std::string model_type = "ddpm";
};

UnconditionalPipeline::UnconditionalPipeline(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
UnconditionalPipeline::~UnconditionalPipeline() = default;
UnconditionalPipeline::UnconditionalPipeline(UnconditionalPipeline&&) noexcept = default;
UnconditionalPipeline& UnconditionalPipeline::operator=(UnconditionalPipeline&&) noexcept = default;

UnconditionalPipeline UnconditionalPipeline::load(const std::filesystem::path& folder, const LoadOptions& options) {
  check_device(options.device);
  check_no_controlnets(options);
  const ModelPackage package(folder);
  return UnconditionalPipeline(std::make_unique<Impl>(check_family(package, folder, {"unconditional"}), options));
}

UnconditionalResult UnconditionalPipeline::operator()(const UnconditionalParams& params) {
  return impl_->run(impl_->resolve(params));
}

void UnconditionalPipeline::validate(const UnconditionalParams& params) const {
  impl_->check(impl_->resolve(params));
}

UnconditionalParams UnconditionalPipeline::resolve(const UnconditionalParams& params) const {
  return impl_->resolve(params);
}

std::vector<std::int64_t> UnconditionalPipeline::latent_shape(const UnconditionalParams& params) const {
  return impl_->latent_shape(params);
}

void UnconditionalPipeline::set_scheduler(std::string_view class_name) {
  impl_->scheduler = impl_->scheduler_source.make(class_name);
}

std::string UnconditionalPipeline::scheduler_name() const {
  return impl_->scheduler->configured_name();
}

std::string UnconditionalPipeline::model_type() const {
  return impl_->model_type;
}

UNet UnconditionalPipeline::unet() const {
  return impl_->unet;
}

}  // namespace deepcache
