#include "deepcache/generate.hpp"

#include <torch/types.h>

#include <algorithm>
#include <chrono>
#include <fstream>
#include <limits>
#include <optional>

#include "deepcache/image.hpp"
#include "deepcache/tensor_io.hpp"
#include "error.hpp"

namespace deepcache {
namespace {

namespace fs = std::filesystem;

/// A model of a run; there are two if a refiner goes on with the first one's latents.
struct Stage {
  StableDiffusionPipeline& pipe;
  StableDiffusionParams params;
  Helper helper;
};

struct Run {
  StableDiffusionResult result;
  RunReport report;
};

std::vector<Stage> make_stages(StableDiffusionPipeline& pipe, const GenerateRequest& request) {
  std::vector<Stage> stages;
  stages.push_back({pipe, request.params, Helper(pipe)});
  if (request.refiner != nullptr) {
    check_argument(!request.params.denoising_end, "with a refiner, refiner_start says where the model ends");
    check_argument(pipe.shares_latents_with(*request.refiner),
                   "the refiner's latents aren't the model's: it can't go on with them");
    auto params = pipe.resolve(request.params);
    params.latents = torch::Tensor();
    params.mask = torch::Tensor();
    params.control_images.clear();
    params.strength.reset();
    params.prompt_2.reset();  // it has one text encoder
    params.negative_prompt_2.reset();
    params.image = torch::zeros(pipe.latent_shape(1, params));
    params.denoising_start = request.refiner_start;
    stages[0].params.denoising_end = request.refiner_start;
    stages[0].params.decode = false;
    stages.push_back({*request.refiner, params, Helper(*request.refiner)});
  }
  for (auto& stage : stages) {
    stage.helper.set_params(request.cache);
    stage.helper.enable();
    for (const auto& prompt : request.prompts) stage.pipe.validate({prompt}, stage.params);
  }
  return stages;
}

void append(CacheStats& stats, const CacheStats& more) {
  stats.steps.insert(stats.steps.end(), more.steps.begin(), more.steps.end());
  stats.full_steps += more.full_steps;
  stats.cached_steps += more.cached_steps;
  stats.cache_bytes = std::max(stats.cache_bytes, more.cache_bytes);
  stats.macs_saved += more.macs_saved;
}

Run run(std::vector<Stage>& stages, const GenerateRequest& request, const std::string& prompt,
        std::int64_t cache_interval) {
  auto& first = stages.front();
  Run run{.result = {},
          .report = {.model = request.model,
                     .scheduler = first.pipe.scheduler_name(),
                     .prompt = prompt,
                     .params = first.pipe.resolve(request.params),
                     .cache = request.cache}};
  run.report.cache.cache_interval = cache_interval;
  const auto start = std::chrono::steady_clock::now();
  for (auto& stage : stages) {
    stage.helper.set_params(run.report.cache);
    auto params = stage.params;
    if (&stage != &first) params.image = run.result.latents;
    params.callback = [&](const PipelineStep& step) {
      run.report.timesteps.push_back(step.timestep);
      return !stage.params.callback || stage.params.callback(step);
    };
    run.result = stage.pipe(prompt, params);
    const auto stats = stage.helper.stats();
    if (&stage == &first)
      run.report.stats = stats;
    else
      append(run.report.stats, stats);
    if (run.result.cancelled) break;
  }
  const std::chrono::duration<double, std::milli> elapsed = std::chrono::steady_clock::now() - start;
  run.report.milliseconds = elapsed.count();
  return run;
}

/// LibTorch's first calls are slower: neither side of a comparison should pay for them.
void warm_up(std::vector<Stage>& stages, const std::string& prompt) {
  for (auto& stage : stages) {
    auto params = stage.params;
    params.decode = false;
    params.callback = [](const PipelineStep& step) { return step.step_index < 1; };
    const auto latents = stage.pipe(prompt, params).latents;
    if (&stage == &stages.back()) stage.pipe.decode(latents);
  }
}

RunComparison compare(const Run& cached, const Run& full) {
  const auto& images = cached.result.images;
  const bool has_ssim = std::min(images.size(2), images.size(3)) >= 11;  // its window
  return {.milliseconds_uncached = full.report.milliseconds,
          .speedup = full.report.milliseconds / cached.report.milliseconds,
          .psnr_db = psnr(images, full.result.images),
          .ssim = has_ssim ? ssim(images, full.result.images) : std::numeric_limits<double>::quiet_NaN()};
}

/// heart.png, or heart-2.png for one of several images; `suffix` tells uncached ones apart.
fs::path numbered(const fs::path& file, std::size_t index, std::size_t count, const std::string& suffix = "") {
  const auto number = count > 1 ? fmt::format("-{}", index + 1) : "";
  return file.parent_path() / (file.stem().string() + number + suffix + file.extension().string());
}

/// Fails before the model runs rather than after.
void check_writable(const fs::path& file) {
  if (file.empty()) return;
  const bool existed = fs::exists(file);
  const bool good = !fs::is_directory(file) && std::ofstream(file, std::ios::app).is_open();
  std::error_code ignored;
  if (good && !existed) fs::remove(file, ignored);
  check_data(good, "can't write {}", file.string());
}

void check_outputs(const GenerateRequest& request) {
  const auto& outputs = request.outputs;
  check_argument(request.compare || outputs.contact_sheet.empty(), "a contact sheet needs a comparison");
  for (const auto& file : {outputs.report, outputs.contact_sheet, outputs.latents}) check_writable(file);
  const auto count = request.prompts.size() * static_cast<std::size_t>(request.params.num_images_per_prompt);
  for (std::size_t i = 0; i < count; ++i) {
    check_writable(numbered(outputs.image, i, count));
    if (request.compare) check_writable(numbered(outputs.image, i, count, "-uncached"));
  }
}

void save_contact_sheet(const GenerateRequest& request, const std::vector<ContactRow>& rows) {
  constexpr std::int64_t kSmallest = 128, kRowsAcross = 3;
  const auto scale = std::max<std::int64_t>(1, kSmallest / rows[0].images[0].size(2));
  const auto cached = fmt::format("every {}", request.cache.cache_interval);
  save_png(contact_sheet({"full", cached}, rows, scale, kRowsAcross), request.outputs.contact_sheet);
}

}  // namespace

std::vector<RunReport> generate(StableDiffusionPipeline& pipe, const GenerateRequest& request) {
  check_argument(!request.prompts.empty(), "there must be one prompt or more, got none");
  auto stages = make_stages(pipe, request);
  check_outputs(request);
  if (request.compare) warm_up(stages, request.prompts[0]);

  std::vector<RunReport> reports;
  std::vector<ContactRow> rows;
  std::vector<torch::Tensor> latents;
  const auto& outputs = request.outputs;
  const auto batch = static_cast<std::size_t>(request.params.num_images_per_prompt);
  const auto count = request.prompts.size() * batch;
  for (std::size_t i = 0; i < request.prompts.size(); ++i) {
    const auto& prompt = request.prompts[i];
    std::optional<Run> full;
    if (request.compare) full = run(stages, request, prompt, 1);
    if (full && full->result.cancelled) break;
    auto cached = run(stages, request, prompt, request.cache.cache_interval);
    if (cached.result.cancelled) break;
    if (full) cached.report.compare = compare(cached, *full);
    for (std::size_t j = 0; j < batch; ++j) {
      const auto index = static_cast<std::int64_t>(j);
      const auto image = cached.result.images[index];
      save_png(image, numbered(outputs.image, i * batch + j, count), cached.report.png_text(index));
      if (!full) continue;
      const auto uncached = full->result.images[index];
      save_png(uncached, numbered(outputs.image, i * batch + j, count, "-uncached"), full->report.png_text(index));
      rows.push_back({prompt, {uncached, image}});
    }
    latents.push_back(cached.result.latents);
    reports.push_back(std::move(cached.report));
    if (request.on_prompt) request.on_prompt(reports.back());
  }
  if (reports.empty()) return reports;
  if (!outputs.latents.empty()) save_tensor(torch::cat(latents), outputs.latents);
  if (!outputs.report.empty()) save_reports(reports, outputs.report);
  if (!outputs.contact_sheet.empty()) save_contact_sheet(request, rows);
  return reports;
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

std::string progress_bar(const PipelineStep& step) {
  constexpr std::size_t kWidth = 40;
  const auto done = static_cast<std::size_t>(step.step_index + 1);
  const auto filled = done * kWidth / static_cast<std::size_t>(step.num_steps);
  return fmt::format("[{}{}] {}/{}", std::string(filled, '#'), std::string(kWidth - filled, ' '), done, step.num_steps);
}

}  // namespace deepcache
