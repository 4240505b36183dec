#include "deepcache/generate.hpp"

#include <torch/types.h>

#include <algorithm>
#include <memory>
#include <utility>

#include "deepcache/image.hpp"
#include "error.hpp"
#include "pipelines/describe_request.hpp"
#include "pipelines/jobs.hpp"

namespace deepcache {
namespace {

namespace fs = std::filesystem;

/// A model of a run; there are two if a refiner goes on with the first one's latents.
struct Stage {
  StableDiffusionPipeline& pipe;
  StableDiffusionParams params;
};

void validate(const Stage& stage, const std::vector<std::string>& prompts) {
  for (const auto& prompt : prompts) stage.pipe.validate({prompt}, stage.params);
}

/// SDXL's refiner; a request's may be any model.
bool is_refiner(const StableDiffusionPipeline* pipe) {
  return pipe != nullptr && pipe->model_type() == "sdxl-refiner";
}

Stage refiner_stage(const StableDiffusionPipeline& pipe, const GenerateRequest& request) {
  auto params = pipe.resolve(request.params);
  params.latents = torch::Tensor();
  // A model made for inpainting hands over pictures that are noisy all over; any other's are clean where they are kept.
  if (pipe.model_type().ends_with("-inpaint")) params.mask = torch::Tensor();
  params.control_images.clear();
  params.strength.reset();
  if (is_refiner(request.refiner)) {  // it has one text encoder
    params.prompt_2.reset();
    params.negative_prompt_2.reset();
  }
  params.image = torch::zeros(pipe.latent_shape(1, params));
  params.denoising_start = request.refiner_start;
  return {*request.refiner, params};
}

/// A seed's noise for several pictures is drawn at once, and all prompts of a batch get as many chunks of tokens as the
/// longest: a picture would be another one than that of its prompt alone.
void check_prompt_batch(const GenerateRequest& request) {
  const auto& params = request.params;
  check_argument(request.prompt_batch >= 1, "prompt_batch must be 1 or above, got {}", request.prompt_batch);
  check_argument(request.prompt_batch == 1 || (params.num_images_per_prompt == 1 && params.max_prompt_chunks == 1),
                 "with a prompt_batch of {}, num_images_per_prompt and max_prompt_chunks must be 1, got {} and {}",
                 request.prompt_batch, params.num_images_per_prompt, params.max_prompt_chunks);
}

/// The models of a run, and their parameters, found to be right.
std::vector<Stage> make_stages(StableDiffusionPipeline& pipe, const GenerateRequest& request) {
  check_argument(!request.prompts.empty(), "there must be one prompt or more, got none");
  check_argument(request.params.decode, "pictures are to be written: decode must be true");
  check_prompt_batch(request);
  std::vector<Stage> stages{{pipe, request.params}};
  if (is_refiner(request.refiner)) {  // which alone is told of scores
    const StableDiffusionParams defaults;
    stages[0].params.aesthetic_score = defaults.aesthetic_score;
    stages[0].params.negative_aesthetic_score = defaults.negative_aesthetic_score;
  }
  validate(stages[0], request.prompts);
  if (request.refiner == nullptr) return stages;
  check_argument(!request.params.denoising_end, "with a refiner, refiner_start says where the model ends");
  check_argument(request.refiner_start > 0 && request.refiner_start < 1,
                 "refiner_start must be above 0 and below 1, got {}", request.refiner_start);
  check_argument(
      pipe.shares_latents_with(*request.refiner),
      "the refiner can't go on with the model's latents: it has another VAE, or its scheduler, {}, keeps them "
      "otherwise than {}",
      request.refiner->scheduler_name(), pipe.scheduler_name());
  stages[0].params.denoising_end = request.refiner_start;
  stages[0].params.decode = false;
  validate(stages[0], request.prompts);
  stages.push_back(refiner_stage(pipe, request));
  validate(stages[1], request.prompts);
  return stages;
}

/// The same for several prompts at a time, each from the seed, picture and noise that it has alone.
StableDiffusionParams for_batch(StableDiffusionParams params, std::size_t prompts) {
  const auto each = [&](torch::Tensor& tensor) {
    if (tensor.defined()) tensor = tensor.repeat({static_cast<std::int64_t>(prompts), 1, 1, 1});  // [3, H, W] too
  };
  params.seeds.resize(prompts, params.seeds.at(0));
  each(params.image);
  each(params.latents);
  return params;
}

Painted paint(const std::vector<Stage>& stages, const std::vector<std::string>& prompts, const StepCallback& callback) {
  StableDiffusionResult result;
  for (const auto& stage : stages) {
    auto params = prompts.size() == 1 ? stage.params : for_batch(stage.params, prompts.size());
    if (&stage != &stages.front()) params.image = result.latents;
    params.callback = [&](const PipelineStep& step) {
      return callback(step) && (!stage.params.callback || stage.params.callback(step));
    };
    result = stage.pipe(prompts, params);
    if (result.cancelled) break;
  }
  return {.pictures = result.images, .latents = result.latents, .cancelled = result.cancelled};
}

void warm_up(const std::vector<Stage>& stages, const std::vector<std::string>& prompts) {
  for (const auto& stage : stages) {
    auto params = prompts.size() == 1 ? stage.params : for_batch(stage.params, prompts.size());
    params.decode = false;
    params.callback = [](const PipelineStep& step) { return step.step_index < 1; };
    const auto latents = stage.pipe(prompts, params).latents;
    if (&stage == &stages.back()) stage.pipe.decode(latents, params.vae);
  }
}

/// What is asked for besides, if it is.
void add_further(nlohmann::ordered_json& json, const GenerateRequest& request) {
  const StableDiffusionParams defaults;
  const auto& params = request.params;
  const auto add = [&](const char* name, const auto& value, const auto& missing) {
    if (value != missing) json[name] = value;
  };
  const auto add_size = [&](const char* name, const std::optional<ImageSize>& size) {
    if (size) json[name] = {size->height, size->width};
  };
  const auto add_crop = [&](const char* name, const ImageSize& corner) {
    if (corner.height != 0 || corner.width != 0) json[name] = {corner.height, corner.width};
  };
  const auto add_set = [&](const char* name, const auto& value) {
    if (value) json[name] = *value;
  };
  add_set("prompt_2", params.prompt_2);
  add_set("negative_prompt_2", params.negative_prompt_2);
  add("guidance_rescale", params.guidance_rescale, defaults.guidance_rescale);
  add("clip_skip", params.clip_skip, defaults.clip_skip);
  add("eta", params.eta, defaults.eta);
  add_set("denoising_start", params.denoising_start);
  add_set("denoising_end", params.denoising_end);
  add_size("original_size", params.original_size);
  add_size("target_size", params.target_size);
  add_crop("crops_coords_top_left", params.crops_coords_top_left);
  add_size("negative_original_size", params.negative_original_size);
  add_size("negative_target_size", params.negative_target_size);
  add_crop("negative_crops_coords_top_left", params.negative_crops_coords_top_left);
  add("aesthetic_score", params.aesthetic_score, defaults.aesthetic_score);
  add("negative_aesthetic_score", params.negative_aesthetic_score, defaults.negative_aesthetic_score);
  add("vae_tiling", params.vae.tiling, defaults.vae.tiling);
  add("vae_slicing", params.vae.slicing, defaults.vae.slicing);
  if (request.refiner != nullptr)
    json["refiner"] = {{"start", request.refiner_start}, {"scheduler", request.refiner->scheduler_name()}};
}

}  // namespace

nlohmann::ordered_json describe_request(const GenerateRequest& request, const StableDiffusionPipeline& pipe,
                                        const std::string& prompt) {
  const auto params = pipe.resolve(request.params);
  nlohmann::ordered_json json{{"model", request.model},
                              {"prompt", prompt},
                              {"negative_prompt", params.negative_prompt.value_or("")},
                              {"prompt_weighting", params.prompt_weighting},
                              {"max_prompt_chunks", params.max_prompt_chunks},
                              {"scheduler", pipe.scheduler_name()},
                              {"steps", params.num_inference_steps},
                              {"guidance_scale", *params.guidance_scale},
                              {"seeds", params.seeds},
                              {"batch_size", params.num_images_per_prompt},
                              {"width", params.width},
                              {"height", params.height},
                              {"init_latents", params.latents.defined()}};
  if (params.image.defined()) {
    json["strength"] = *params.strength;
    json["mask"] = params.mask.defined();
  }
  add_further(json, request);
  for (const auto& control : params.control_images)
    json["control_images"].push_back({{"conditioning_scale", *control.conditioning_scale},
                                      {"guidance_start", control.guidance_start},
                                      {"guidance_end", control.guidance_end}});
  return json;
}

std::vector<RunReport> generate(StableDiffusionPipeline& pipe, const GenerateRequest& request) {
  const auto stages = make_stages(pipe, request);
  std::vector<Helper> helpers;
  for (const auto& stage : stages) helpers.emplace_back(stage.pipe);
  std::vector<Job> jobs;
  const auto batch = static_cast<std::size_t>(request.prompt_batch);
  for (std::size_t begin = 0; begin < request.prompts.size(); begin += batch) {
    const std::vector<std::string> prompts(request.prompts.begin() + begin,
                                           request.prompts.begin() + std::min(begin + batch, request.prompts.size()));
    std::vector<Subject> subjects;
    for (const auto& prompt : prompts) subjects.push_back({describe_request(request, pipe, prompt), prompt});
    jobs.push_back(
        {.subjects = std::move(subjects),
         .run = [&stages, prompts](const StepCallback& callback) { return paint(stages, prompts, callback); },
         .warm_up = [&stages, prompts] { warm_up(stages, prompts); }});
  }
  return run_jobs(jobs, helpers,
                  {.cache = request.cache,
                   .compare = request.compare,
                   .outputs = request.outputs,
                   .pictures_a_subject = static_cast<std::size_t>(request.params.num_images_per_prompt),
                   .on_report = request.on_prompt});
}

namespace {

/// Completes the size that is asked for by an image's own, cut down to what the model can paint.
void take_size(const StableDiffusionPipeline& pipe, const torch::Tensor& image, const fs::path& file,
               StableDiffusionParams& params) {
  constexpr std::int64_t kLargest = 2048;
  const auto height = image.size(1), width = image.size(2), factor = pipe.vae_scale_factor();
  check_argument((params.width != 0 && params.height != 0) || height * width <= kLargest * kLargest,
                 "{} has {}x{} pixels: say which width and height to paint", file.string(), width, height);
  if (params.height == 0) params.height = std::max(factor, height / factor * factor);
  if (params.width == 0) params.width = std::max(factor, width / factor * factor);
}

}  // namespace

void load_pictures(const StableDiffusionPipeline& pipe, const fs::path& image, const fs::path& mask,
                   StableDiffusionParams& params) {
  params.image = load_image(image);
  const auto height = params.image.size(1);
  const auto width = params.image.size(2);
  if (!mask.empty()) {
    params.mask = load_mask(mask);
    check_argument(params.mask.size(1) == height && params.mask.size(2) == width,
                   "{} has {}x{} pixels, its mask {} must have as many, got {}x{}", image.string(), width, height,
                   mask.string(), params.mask.size(2), params.mask.size(1));
  }
  take_size(pipe, params.image, image, params);
  params.image = resize_image(params.image, params.height, params.width);
  if (!mask.empty()) params.mask = resize_image(params.mask, params.height, params.width);
}

void load_control_images(const StableDiffusionPipeline& pipe, const std::vector<fs::path>& files,
                         StableDiffusionParams& params) {
  params.control_images.resize(files.size());
  for (std::size_t i = 0; i < files.size(); ++i) {
    const auto image = load_image(files[i]);
    if (i == 0) take_size(pipe, image, files[i], params);
    params.control_images[i].image = resize_image(image, params.height, params.width);
  }
}

std::string progress_bar(std::int64_t done, std::int64_t total) {
  constexpr std::int64_t kWidth = 40;
  check_argument(total > 0 && done >= 0 && done <= total, "what is done must be 0 to all, of 1 or more; got {} of {}",
                 done, total);
  const auto filled = static_cast<std::size_t>(done * kWidth / total);
  return fmt::format("[{}{}] {}/{}", std::string(filled, '#'), std::string(kWidth - filled, ' '), done, total);
}

}  // namespace deepcache
