// Text to image with DeepCache, on a model package made by tools/export.py.
//
//   txt2img -m models/emoji -p "red heart" --compare -o heart.png

#include <ATen/Parallel.h>
#include <deepcache/deepcache.hpp>

#include <CLI/CLI.hpp>
#include <chrono>
#include <cstdio>
#include <fstream>
#include <random>

#ifdef _WIN32
#include <io.h>
#define isatty _isatty
#define fileno _fileno
#else
#include <unistd.h>
#endif

namespace fs = std::filesystem;

namespace {

struct Options {
  std::string model, scheduler, device = "cpu";
  std::vector<std::string> prompts;
  deepcache::StableDiffusionParams params;
  std::int64_t seed = 42, cache_interval = 3, cache_branch_id = 0;
  int threads = 0;
  bool no_cache = false, compare = false, verbose = false;
  fs::path output = "output.png", report, contact_sheet, init_latents, save_latents;
};

struct Run {
  deepcache::StableDiffusionResult result;
  deepcache::RunReport report;
};

void add_flags(CLI::App& app, Options& o) {
  app.add_option("-m,--model", o.model, "Model package folder")->required();
  app.add_option("-p,--prompt", o.prompts, "What to paint; may be given several times")
      ->required()
      ->allow_extra_args(false);  // or "[cat, dog]" would be two prompts
  app.add_option("-n,--negative-prompt", o.params.negative_prompt, "What to avoid");
  app.add_option("--steps", o.params.num_inference_steps, "Denoising steps")->capture_default_str();
  app.add_option("--cfg-scale", o.params.guidance_scale, "Classifier-free guidance; 1: none; default: 7.5, SDXL 5");
  app.add_option("--scheduler", o.scheduler,
                 "Such as ddim, plms, euler_a, dpm++_2m_karras, unipc; default: the package's own");
  app.add_option("-s,--seed", o.seed, "Of the initial noise; negative: random")->capture_default_str();
  app.add_option("-b,--batch-size", o.params.num_images_per_prompt, "Images a prompt")->capture_default_str();
  app.add_option("-W,--width", o.params.width, "Pixels; 0: the model's own")->capture_default_str();
  app.add_option("-H,--height", o.params.height, "Pixels; 0: the model's own")->capture_default_str();
  app.add_option("--cache-interval", o.cache_interval, "A full step every N; 1: always")->capture_default_str();
  app.add_option("--cache-branch-id", o.cache_branch_id, "Skip branch to cut at; 0: shallowest")->capture_default_str();
  app.add_flag("--no-cache", o.no_cache, "Compute every step in full");
  app.add_flag("--compare", o.compare, "Run uncached too, report speedup and PSNR")->excludes("--no-cache");
  app.add_option("-o,--output", o.output, "PNG file; several images are numbered")->capture_default_str();
  app.add_option("--contact-sheet", o.contact_sheet, "PNG of full and cached images side by side")->needs("--compare");
  app.add_option("--report", o.report, "JSON file: what was asked, each step, times; a list for several prompts");
  app.add_option("--init-latents", o.init_latents, "Initial noise, a tensor saved by torch.save");
  app.add_option("--save-latents", o.save_latents, "Writes the final latents, for torch.load");
  app.add_option("--device", o.device, "cpu, cuda or cuda:N")->capture_default_str();
  app.add_option("--threads", o.threads, "CPU threads; 0: LibTorch's default")->check(CLI::NonNegativeNumber);
  app.add_flag("-v,--verbose", o.verbose, "Say more");
}

/// heart.png, or heart-2.png for one of several images; `suffix` tells uncached ones apart.
fs::path numbered(const fs::path& file, std::size_t index, std::size_t count, const std::string& suffix = "") {
  auto name = file.stem().string() + (count > 1 ? "-" + std::to_string(index + 1) : "") + suffix;
  return file.parent_path() / (name + file.extension().string());
}

/// Fails before the model runs rather than after.
void check_writable(const fs::path& file) {
  if (file.empty()) return;
  const bool existed = fs::exists(file);
  const bool good = !fs::is_directory(file) && std::ofstream(file, std::ios::app).is_open();
  std::error_code ignored;
  if (good && !existed) fs::remove(file, ignored);
  if (!good) throw std::runtime_error("can't write " + file.string());
}

void check_outputs(const Options& o) {
  for (const auto& file : {o.report, o.contact_sheet, o.save_latents}) check_writable(file);
  const auto count = o.prompts.size() * static_cast<std::size_t>(o.params.num_images_per_prompt);
  for (std::size_t i = 0; i < count; ++i) {
    check_writable(numbered(o.output, i, count));
    if (o.compare) check_writable(numbered(o.output, i, count, "-uncached"));
  }
}

/// LibTorch's first calls are slower: neither side of a comparison should pay for them.
void warm_up(deepcache::StableDiffusionPipeline& pipe, const Options& o) {
  auto params = o.params;
  params.decode = false;
  params.callback = [](const deepcache::PipelineStep& step) { return step.step_index < 1; };
  const auto latents = pipe(o.prompts[0], params).latents;
  pipe.decode(latents);
}

void show_progress(const deepcache::PipelineStep& step) {
  const auto done = static_cast<std::size_t>(step.step_index + 1), count = static_cast<std::size_t>(step.num_steps);
  std::string bar(40, ' ');
  bar.replace(0, done * bar.size() / count, done * bar.size() / count, '#');
  std::fprintf(stderr, "\r[%s] %zu/%zu", bar.c_str(), done, count);
  if (done == count) std::fprintf(stderr, "\r%64s\r", "");
}

Run run(deepcache::StableDiffusionPipeline& pipe, deepcache::Helper& helper, const Options& o,
        const std::string& prompt, std::int64_t interval) {
  Run run{.result = {},
          .report = {.model = fs::path(o.model).lexically_normal().filename().string(),
                     .scheduler = pipe.scheduler_name(),
                     .prompt = prompt,
                     .params = pipe.resolve(o.params),
                     .cache = {.cache_interval = interval, .cache_branch_id = o.cache_branch_id}}};
  helper.set_params(run.report.cache);
  auto params = o.params;
  params.callback = [&, terminal = isatty(fileno(stderr)) != 0](const deepcache::PipelineStep& step) {
    run.report.timesteps.push_back(step.timestep);
    if (terminal) show_progress(step);
    return true;
  };
  const auto start = std::chrono::steady_clock::now();
  run.result = pipe(prompt, params);
  const std::chrono::duration<double, std::milli> elapsed = std::chrono::steady_clock::now() - start;
  run.report.milliseconds = elapsed.count();
  run.report.stats = helper.stats();
  return run;
}

void print(const deepcache::RunReport& report) {
  std::printf("%-28s %lld full + %lld cached steps, %.0f ms", report.prompt.c_str(),
              static_cast<long long>(report.stats.full_steps), static_cast<long long>(report.stats.cached_steps),
              report.milliseconds);
  if (report.compare)
    std::printf("; uncached %.0f ms: %.2fx faster, PSNR %.1f dB, SSIM %.3f", report.compare->milliseconds_uncached,
                report.compare->speedup, report.compare->psnr_db, report.compare->ssim);
  std::printf("\n");
}

deepcache::RunComparison compare(const Run& cached, const Run& full) {
  const auto& images = cached.result.images;
  const bool has_ssim = std::min(images.size(2), images.size(3)) >= 11;  // its window
  return {.milliseconds_uncached = full.report.milliseconds,
          .speedup = full.report.milliseconds / cached.report.milliseconds,
          .psnr_db = deepcache::psnr(images, full.result.images),
          .ssim = has_ssim ? deepcache::ssim(images, full.result.images) : std::numeric_limits<double>::quiet_NaN()};
}

void paint(Options& o) {
  if (o.threads > 0) at::set_num_threads(o.threads);
  if (o.seed < 0) {
    o.seed = std::random_device()();
    std::printf("seed %lld\n", static_cast<long long>(o.seed));
  }
  o.params.seeds = {static_cast<std::uint64_t>(o.seed)};
  if (!o.init_latents.empty()) o.params.latents = deepcache::load_tensor(o.init_latents);

  auto pipe = deepcache::StableDiffusionPipeline::load(o.model, {torch::Device(o.device), o.scheduler});
  deepcache::Helper helper(pipe);
  helper.set_params({.cache_interval = o.cache_interval, .cache_branch_id = o.cache_branch_id});
  helper.enable();
  for (const auto& prompt : o.prompts) pipe.validate({prompt}, o.params);  // all or none are painted
  check_outputs(o);
  if (o.compare) warm_up(pipe, o);

  std::vector<deepcache::ContactRow> rows;
  std::vector<torch::Tensor> latents;
  std::string reports;
  const auto batch = static_cast<std::size_t>(o.params.num_images_per_prompt);
  const auto count = o.prompts.size() * batch;
  for (std::size_t i = 0; i < o.prompts.size(); ++i) {
    std::optional<Run> full;
    if (o.compare) full = run(pipe, helper, o, o.prompts[i], 1);
    auto cached = run(pipe, helper, o, o.prompts[i], o.no_cache ? 1 : o.cache_interval);
    if (full) cached.report.compare = compare(cached, *full);
    for (std::size_t j = 0; j < batch; ++j) {
      const auto index = static_cast<std::int64_t>(j);
      const auto image = cached.result.images[index];
      deepcache::save_png(image, numbered(o.output, i * batch + j, count), cached.report.png_text(index));
      if (!full) continue;
      const auto uncached = full->result.images[index];
      deepcache::save_png(uncached, numbered(o.output, i * batch + j, count, "-uncached"),
                          full->report.png_text(index));
      rows.push_back({o.prompts[i], {uncached, image}});
    }
    latents.push_back(cached.result.latents);
    reports += (i > 0 ? ",\n" : "") + cached.report.json();
    print(cached.report);
  }

  if (!o.save_latents.empty()) deepcache::save_tensor(torch::cat(latents), o.save_latents);
  if (!o.report.empty()) deepcache::save_text(o.prompts.size() > 1 ? "[" + reports + "]\n" : reports, o.report);
  if (!o.contact_sheet.empty()) {
    const auto scale = std::max<std::int64_t>(1, 128 / rows[0].images[0].size(2));
    const auto sheet = deepcache::contact_sheet({"full", "every " + std::to_string(o.cache_interval)}, rows, scale, 3);
    deepcache::save_png(sheet, o.contact_sheet);
  }
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app("Text to image with DeepCache");
  Options options;
  add_flags(app, options);
  try {
    app.parse(argc, argv);
    deepcache::enable_logging(options.verbose ? deepcache::LogLevel::kDebug : deepcache::LogLevel::kWarning);
    paint(options);
    return 0;
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : 2;
  } catch (const c10::Error& error) {
    std::fprintf(stderr, "txt2img: %s\n", error.what_without_backtrace());
  } catch (const std::exception& error) {
    std::fprintf(stderr, "txt2img: %s\n", error.what());
  }
  return 2;
}
