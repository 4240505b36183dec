#include "deepcache/stable_diffusion.hpp"

#include <torch/types.h>

#include <cmath>
#include <nlohmann/json.hpp>
#include <optional>

#include "core/torchscript.hpp"
#include "deepcache/noise.hpp"
#include "deepcache/scheduler.hpp"
#include "deepcache/tokenizer.hpp"
#include "error.hpp"
#include "io/files.hpp"
#include "log.hpp"
#include "models/model_package.hpp"

namespace deepcache {
namespace {

/// What the pipeline needs of unet/config.json and vae/config.json.
struct LatentSpace {
  std::int64_t channels;
  std::int64_t sample_size;  // latents of the model's own image size
  std::int64_t factor;       // pixels to a latent
  double scaling_factor;
};

LatentSpace read_latent_space(const ModelPackage& package) {
  const auto unet_file = package.file("unet/config.json"), vae_file = package.file("vae/config.json");
  const auto unet = read_json(unet_file), vae = read_json(vae_file);
  try {
    const auto levels = vae.at("block_out_channels").size();
    check_data(levels >= 1 && levels < 16, "{}: block_out_channels must have 1 to 15 entries, got {}",
               vae_file.string(), levels);
    return {.channels = unet.at("in_channels").get<std::int64_t>(),
            .sample_size = unet.at("sample_size").get<std::int64_t>(),
            .factor = std::int64_t{1} << (levels - 1),
            .scaling_factor = vae.at("scaling_factor").get<double>()};
  } catch (const nlohmann::json::exception& error) {
    throw std::runtime_error(
        fmt::format("{} or {} is malformed: {}", unet_file.string(), vae_file.string(), error.what()));
  }
}

}  // namespace

struct StableDiffusionPipeline::Impl {
  Impl(const ModelPackage& package, torch::Device target, std::string_view scheduler_class)
      : device(target),
        dtype(package.dtype()),
        space(read_latent_space(package)),
        scheduler_config(package.file("scheduler/scheduler_config.json")),
        scheduler(Scheduler::from_config(scheduler_config, scheduler_class)),
        tokenizer(CLIPTokenizer::load(package.folder("tokenizer"))),
        text_encoder(package.network("text_encoder/model.pt"), device),
        unet(UNet::load(package.file("unet/model.pt"), device, dtype)),
        vae_decoder(package.network("vae/decoder.pt"), device) {}

  /// Text embeddings [num_images * texts, L, D], images of the first text first.
  torch::Tensor encode(const std::vector<std::string>& texts, std::int64_t num_images) const {
    const auto room = tokenizer.model_max_length() - 2;  // start and end token
    std::vector<torch::Tensor> batch;
    for (const auto& text : texts) {
      auto ids = tokenizer.tokenize(text);
      if (const auto count = static_cast<std::int64_t>(ids.size()); count > room)
        log(LogLevel::kWarning,
            fmt::format("the prompt has {} tokens, the model reads the first {}: \"{}\"", count, room, text));
      batch.push_back(torch::tensor(tokenizer.prepare_for_model(std::move(ids))));
    }
    return text_encoder(torch::stack(batch).to(device)).repeat_interleave(num_images, 0);
  }

  /// The latents' height or width for a number of pixels.
  std::int64_t latent_side(std::int64_t pixels, const char* name) const {
    if (pixels == 0) return space.sample_size;
    const auto below = std::max<std::int64_t>(1, pixels / space.factor) * space.factor;
    check_argument(pixels > 0 && pixels % space.factor == 0,
                   "{} must be a positive multiple of {} for this model; the nearest to {} are {} and {}", name,
                   space.factor, pixels, below, below + space.factor);
    return pixels / space.factor;
  }

  std::vector<std::int64_t> latent_shape(const std::vector<std::string>& prompts,
                                         const TextToImageParams& params) const {
    return {static_cast<std::int64_t>(prompts.size()) * params.num_images_per_prompt, space.channels,
            latent_side(params.height, "height"), latent_side(params.width, "width")};
  }

  torch::Tensor decode(const torch::Tensor& latents) const {
    const auto decoded = vae_decoder((latents / space.scaling_factor).to(dtype));
    return (decoded.to(torch::kFloat) / 2 + 0.5).clamp(0, 1).cpu();
  }

  /// All that can be wrong with a request is found here, before anything is computed.
  void validate(const std::vector<std::string>& prompts, const TextToImageParams& params) const {
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
    tokenizer.tokenize(params.negative_prompt);
    for (const auto& prompt : prompts) tokenizer.tokenize(prompt);
  }

  TextToImageResult run(const std::vector<std::string>& prompts, const TextToImageParams& params) {
    validate(prompts, params);
    const torch::NoGradGuard no_grad;
    const bool guided = params.guidance_scale > 1;
    const auto shape = latent_shape(prompts, params);
    const auto options = torch::TensorOptions().dtype(dtype).device(device);
    NoiseGenerator noise(params.seeds);
    auto latents = params.latents.defined() ? params.latents.to(options) : noise.randn(shape, options);
    latents = latents * scheduler->init_noise_sigma();
    auto embeddings = encode(prompts, params.num_images_per_prompt);
    if (guided) embeddings = torch::cat({encode({params.negative_prompt}, shape[0]), embeddings});

    const auto timesteps = scheduler->timesteps().to(torch::kDouble).contiguous();
    const std::span schedule(timesteps.data_ptr<double>(), static_cast<std::size_t>(timesteps.numel()));
    const auto device_timesteps = scheduler->timesteps().to(device);
    unet.begin_run(schedule);
    for (std::int64_t i = 0; i < timesteps.numel(); ++i) {
      const auto input = scheduler->scale_model_input(guided ? torch::cat({latents, latents}) : latents, i);
      auto prediction = unet(input, device_timesteps[i], embeddings);
      if (guided) {
        const auto halves = prediction.chunk(2);
        prediction = halves[0] + params.guidance_scale * (halves[1] - halves[0]);
      }
      latents = scheduler->step(prediction, i, latents, {.eta = params.eta, .noise = &noise});
      if (params.callback && !params.callback({i, timesteps.numel(), schedule[static_cast<std::size_t>(i)], latents}))
        return {.images = {}, .latents = latents, .cancelled = true};
    }
    return {.images = params.decode ? decode(latents) : torch::Tensor(), .latents = latents};
  }

  torch::Device device;
  torch::Dtype dtype;
  LatentSpace space;
  std::filesystem::path scheduler_config;
  std::unique_ptr<Scheduler> scheduler;
  CLIPTokenizer tokenizer;
  Network text_encoder;
  UNet unet;
  Network vae_decoder;
};

StableDiffusionPipeline::StableDiffusionPipeline(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
StableDiffusionPipeline::~StableDiffusionPipeline() = default;
StableDiffusionPipeline::StableDiffusionPipeline(StableDiffusionPipeline&&) noexcept = default;
StableDiffusionPipeline& StableDiffusionPipeline::operator=(StableDiffusionPipeline&&) noexcept = default;

StableDiffusionPipeline StableDiffusionPipeline::load(const std::filesystem::path& folder, torch::Device device,
                                                      std::string_view scheduler) {
  check_device(device);
  const ModelPackage package(folder);
  check_data(package.family() == "stable-diffusion",
             "{} holds a model of family \"{}\"; this pipeline runs \"stable-diffusion\"", folder.string(),
             package.family());
  auto impl = std::make_unique<Impl>(package, device, scheduler);
  log(LogLevel::kInfo, fmt::format("{}: {} on {}, {} branches, {}", folder.string(), c10::toString(impl->dtype),
                                   device.str(), impl->unet.num_branches(), impl->scheduler->name()));
  return StableDiffusionPipeline(std::move(impl));
}

TextToImageResult StableDiffusionPipeline::operator()(const std::string& prompt, const TextToImageParams& params) {
  return impl_->run({prompt}, params);
}

TextToImageResult StableDiffusionPipeline::operator()(const std::vector<std::string>& prompts,
                                                      const TextToImageParams& params) {
  return impl_->run(prompts, params);
}

void StableDiffusionPipeline::validate(const std::vector<std::string>& prompts, const TextToImageParams& params) const {
  impl_->validate(prompts, params);
}

torch::Tensor StableDiffusionPipeline::decode(const torch::Tensor& latents) const {
  const torch::NoGradGuard no_grad;
  return impl_->decode(latents);
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
