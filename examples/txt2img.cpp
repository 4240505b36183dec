// Text to image with DeepCache, on a model package made by tools/export.py.
//
//   txt2img -m models/emoji -p "red heart" --compare -o heart.png

#include <ATen/Parallel.h>
#include <deepcache/deepcache.hpp>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <random>

#ifdef _WIN32
#include <io.h>
#define isatty _isatty
#define fileno _fileno
#else
#include <unistd.h>
#endif

namespace {

struct Options {
  deepcache::GenerateRequest request;
  std::string model, scheduler, device = "cpu", init_latents;
  std::int64_t seed = 42;
  int threads = 0;
  bool no_cache = false, verbose = false;
};

void add_flags(CLI::App& app, Options& o) {
  auto& [request, model, scheduler, device, init_latents, seed, threads, no_cache, verbose] = o;
  auto& params = request.params;
  app.add_option("-m,--model", model, "Model package folder")->required();
  app.add_option("-p,--prompt", request.prompts, "What to paint; may be given several times")
      ->required()
      ->allow_extra_args(false);  // or "[cat, dog]" would be two prompts
  app.add_option("-n,--negative-prompt", params.negative_prompt, "What to avoid");
  app.add_flag("--prompt-weighting", params.prompt_weighting, "Brackets are weights: (x:1.3), (x), [x]");
  app.add_option("--max-prompt-chunks", params.max_prompt_chunks, "Of 75 tokens a prompt")->capture_default_str();
  app.add_option("--steps", params.num_inference_steps, "Denoising steps")->capture_default_str();
  app.add_option("--cfg-scale", params.guidance_scale, "Classifier-free guidance; 1: none; default: 7.5, SDXL 5");
  app.add_option("--scheduler", scheduler,
                 "Such as ddim, plms, euler_a, dpm++_2m_karras, unipc; default: the package's own");
  app.add_option("-s,--seed", seed, "Of the initial noise; negative: random")->capture_default_str();
  app.add_option("-b,--batch-size", params.num_images_per_prompt, "Images a prompt")->capture_default_str();
  app.add_option("-W,--width", params.width, "Pixels; 0: the model's own")->capture_default_str();
  app.add_option("-H,--height", params.height, "Pixels; 0: the model's own")->capture_default_str();
  app.add_option("--cache-interval", request.cache.cache_interval, "A full step every N; 1: always")
      ->capture_default_str();
  app.add_option("--cache-branch-id", request.cache.cache_branch_id, "Skip branch to cut at; 0: shallowest")
      ->capture_default_str();
  app.add_flag("--no-cache", no_cache, "Compute every step in full");
  app.add_flag("--compare", request.compare, "Run uncached too, report speedup and PSNR")->excludes("--no-cache");
  app.add_option("-o,--output", request.outputs.image, "PNG file; several images are numbered")->capture_default_str();
  app.add_option("--contact-sheet", request.outputs.contact_sheet, "PNG of full and cached images side by side")
      ->needs("--compare");
  app.add_option("--report", request.outputs.report,
                 "JSON file: what was asked, each step, times; a list for several prompts");
  app.add_option("--init-latents", init_latents, "Initial noise, a tensor saved by torch.save");
  app.add_option("--save-latents", request.outputs.latents, "Writes the final latents, for torch.load");
  app.add_option("--device", device, "cpu, cuda or cuda:N")->capture_default_str();
  app.add_option("--threads", threads, "CPU threads; 0: LibTorch's default")->check(CLI::NonNegativeNumber);
  app.add_flag("-v,--verbose", verbose, "Say more");
}

bool show_progress(const deepcache::PipelineStep& step) {
  const bool done = step.step_index + 1 == step.num_steps;
  std::fprintf(stderr, "\r%s", deepcache::progress_bar(step).c_str());
  if (done) std::fprintf(stderr, "\r%64s\r", "");
  return true;
}

void paint(Options& o) {
  if (o.threads > 0) at::set_num_threads(o.threads);
  if (o.seed < 0) {
    o.seed = std::random_device()();
    std::printf("seed %lld\n", static_cast<long long>(o.seed));
  }
  auto& request = o.request;
  request.model = std::filesystem::path(o.model).lexically_normal().filename().string();
  request.params.seeds = {static_cast<std::uint64_t>(o.seed)};
  if (!o.init_latents.empty()) request.params.latents = deepcache::load_tensor(o.init_latents);
  if (o.no_cache) request.cache.cache_interval = 1;
  if (isatty(fileno(stderr)) != 0) request.params.callback = show_progress;
  request.on_prompt = [](const deepcache::RunReport& report) { std::printf("%s\n", report.summary().c_str()); };

  auto pipe = deepcache::StableDiffusionPipeline::load(o.model, {torch::Device(o.device), o.scheduler});
  deepcache::generate(pipe, request);
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
