#pragma once

#include <ATen/Parallel.h>
#include <c10/util/Exception.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <functional>
#include <map>
#include <random>
#include <set>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "deepcache/generate.hpp"
#include "deepcache/logging.hpp"
#include "deepcache/tensor_io.hpp"
#include "deepcache/tuned_policy.hpp"

#ifdef _WIN32
#include <io.h>
#else
#include <unistd.h>
#endif

/// The flags of programs that paint, for CLI11. Header-only, and not part of deepcache.hpp, so that the library doesn't
/// need CLI11; examples/txt2img.cpp is all that a program has to add.
namespace deepcache::cli {

/// What the flags of `add_flags` say.
struct Options {
  GenerateRequest request = {};
  std::string model, scheduler, device = "cpu", dtype = "package", init_latents, prompts_file;
  std::vector<std::filesystem::path> controlnets = {};
  std::filesystem::path cache_policy = {};
  std::vector<const CLI::Option*> cache_flags = {};  ///< any of which is instead of a policy that the package carries
  std::vector<std::pair<const CLI::Option*, std::set<SkipMode>>> mode_flags = {};  ///< that only these modes read
  std::int64_t seed = 42;
  int threads = 0;
  bool no_cache = false, trust_native_code = false, cuda_graphs = false, verbose = false;
};

/// What to paint.
inline void add_request_flags(CLI::App& app, Options& o) {
  auto& params = o.request.params;
  app.add_option("-m,--model,PACKAGE", o.model, "Model package folder")->required();
  auto* prompt = app.add_option("-p,--prompt", o.request.prompts, "What to paint; may be given several times")
                     ->allow_extra_args(false);  // or "[cat, dog]" would be two prompts
  app.add_option("--prompts-file", o.prompts_file, "Text file, UTF-8, with a prompt a line")->excludes(prompt);
  app.add_option("-n,--negative-prompt", params.negative_prompt, "What to avoid");
  app.add_flag("--prompt-weighting", params.prompt_weighting, "Brackets are weights: (x:1.3), (x), [x]");
  app.add_option("--max-prompt-chunks", params.max_prompt_chunks, "Of 75 tokens a prompt")->capture_default_str();
  app.add_option("--steps", params.num_inference_steps,
                 "Denoising steps; default: 50; SVD 25, LDM-4-G 250, unconditional models 1000");
  app.add_option(
      "--cfg-scale", params.guidance_scale,
      "Classifier-free guidance; 1: none; default: 7.5; SDXL 5, inpainting without ControlNet 7.5, LDM-4-G 1.5");
  app.add_option("--scheduler", o.scheduler,
                 "Such as ddim, plms, euler_a, dpm++_2m_karras, unipc; default: the package's own");
  app.add_option("-s,--seed", o.seed, "Of the initial noise; negative: random")->capture_default_str();
  app.add_option("-b,--batch-size", params.num_images_per_prompt, "Images a prompt")->capture_default_str();
  app.add_option("-W,--width", params.width, "Pixels; 0: the image's, or the model's own")->capture_default_str();
  app.add_option("-H,--height", params.height, "Pixels; 0: the image's, or the model's own")->capture_default_str();
  app.add_option("--init-latents", o.init_latents, "Initial noise, a tensor saved by torch.save");
}

/// How to cache it.
inline void add_cache_flags(CLI::App& app, Options& o) {
  const auto before = std::as_const(app).get_options().size();
  const auto only_of = [&o](std::set<SkipMode> modes, const CLI::Option* flag) {
    o.mode_flags.emplace_back(flag, std::move(modes));
  };
  only_of({SkipMode::kUniform, SkipMode::kEven, SkipMode::kQuad, SkipMode::kCenter},
          app.add_option("--cache-interval", o.request.cache.cache_interval,
                         "Full at every Nth call of the UNet (a step, but for Heun); 1: always")
              ->capture_default_str());
  app.add_option("--cache-branch-id", o.request.cache.cache_branch_id,
                 "Skip branch to cut at; 0: shallowest; -1: none, the output is forecast")
      ->capture_default_str();
  app.add_option("--forecast-order", o.request.cache.forecast_order,
                 "Of the polynomial by which cached steps forecast the feature; 0: the latest as it is")
      ->capture_default_str();
  static const std::map<std::string, SkipMode> modes{
      {"uniform", SkipMode::kUniform},  {"even", SkipMode::kEven}, {"quad", SkipMode::kQuad},
      {"center", SkipMode::kCenter},    {"list", SkipMode::kList}, {"timesteps", SkipMode::kTimesteps},
      {"adaptive", SkipMode::kAdaptive}};
  app.add_option_function<std::string>(
         "--skip-mode", [&o](const std::string& name) { o.request.cache.skip_mode = modes.at(name); },
         "How full steps are spread: uniform (default), even (to the last step but one), quad (denser at the "
         "start), center (about --center), list (--full-steps), timesteps (--timestep-distance) or adaptive "
         "(--tolerance)")
      ->check(CLI::IsMember(modes));
  only_of({SkipMode::kQuad, SkipMode::kCenter},
          app.add_option("--pow", o.request.cache.pow, "Of quad and center: above 1; the higher, the less even")
              ->capture_default_str());
  only_of({SkipMode::kCenter},
          app.add_option("--center", o.request.cache.center, "Of center: the step about which full ones are closest")
              ->capture_default_str());
  only_of({SkipMode::kList}, app.add_option("--full-steps", o.request.cache.full_steps, "Of list: such as 0,3,7")
                                 ->delimiter(',')
                                 ->allow_extra_args(false));
  only_of({SkipMode::kTimesteps},
          app.add_option("--timestep-distance", o.request.cache.timestep_distance,
                         "Of timesteps: full where the timestep is so far from the last full step's"));
  only_of(
      {SkipMode::kAdaptive},
      app.add_option("--tolerance", o.request.cache.tolerance,
                     "Of adaptive: full where the latents moved so far since the last full step, relatively; 0 to 1")
          ->capture_default_str());
  only_of({SkipMode::kAdaptive},
          app.add_option("--max-interval", o.request.cache.max_interval, "Of adaptive: full in so many calls at least")
              ->capture_default_str());
  app.add_option("--full-first", o.request.cache.full_first, "Calls at a run's begin that are full in any case")
      ->capture_default_str();
  app.add_option("--full-last", o.request.cache.full_last, "Calls at its end")->capture_default_str();
  const auto flags = app.get_options();
  auto* policy = app.add_option("--cache-policy", o.cache_policy,
                                "File that `deepcache tune` wrote, instead of what flags say of caching")
                     ->check(CLI::ExistingFile);
  for (auto i = before; i < flags.size(); ++i) policy->excludes(flags[i]);
  auto* no_cache = app.add_flag("--no-cache", o.no_cache, "Compute every step in full");
  for (auto i = before; i < flags.size(); ++i) no_cache->excludes(flags[i]);
  no_cache->excludes(policy);
  const auto after = std::as_const(app).get_options();
  o.cache_flags.assign(after.begin() + static_cast<std::ptrdiff_t>(before), after.end());
  app.add_flag("--strict", o.request.cache.strict,
               "Refuse runs in which caching changes pictures more: stochastic schedulers, schedules of 2 to 9 calls");
  app.add_flag("--compare", o.request.compare, "Run uncached too, report speedup and PSNR")->excludes("--no-cache");
}

/// How a model is loaded and run.
inline void add_load_flags(CLI::App& app, Options& o) {
  app.add_option("--device", o.device, "cpu, cuda or cuda:N")->capture_default_str();
  app.add_option("--dtype", o.dtype, "That networks compute in; package: as exported, auto: the fastest on this device")
      ->check(CLI::IsMember({"package", "auto", "float32", "bfloat16", "float16"}))
      ->capture_default_str();
  app.add_option("--threads", o.threads, "CPU threads; 0: LibTorch's default")->check(CLI::NonNegativeNumber);
  app.add_flag("--trust-native-code", o.trust_native_code,
               "Load compiled networks of the package: they can do all that this program can, so trust who made it");
  app.add_flag("--cuda-graphs", o.cuda_graphs,
               "On CUDA: record the UNet's steps as CUDA graphs and replay them; never run on a GPU yet");
  app.add_flag("-v,--verbose", o.verbose, "Say more");
}

/// What to write, and what `add_load_flags` adds.
inline void add_output_flags(CLI::App& app, Options& o) {
  auto& outputs = o.request.outputs;
  app.add_option("--prompt-batch", o.request.prompt_batch, "Prompts to run at a time: the same pictures, more memory")
      ->capture_default_str();
  app.add_option("-o,--output", outputs.image, "PNG file, or a video's; several images are numbered")
      ->capture_default_str();
  app.add_option("--contact-sheet", outputs.contact_sheet, "PNG of full and cached images side by side")
      ->needs("--compare");
  app.add_option("--report", outputs.report, "JSON file: what was asked, each step, times; a list for several prompts");
  app.add_option("--save-latents", outputs.latents, "Writes the final latents, for torch.load");
  add_load_flags(app, o);
}

/// All of these.
inline void add_flags(CLI::App& app, Options& o) {
  add_request_flags(app, o);
  add_cache_flags(app, o);
  add_output_flags(app, o);
}

inline bool is_terminal(std::FILE* stream) {
#ifdef _WIN32
  return _isatty(_fileno(stream)) != 0;
#else
  return isatty(fileno(stream)) != 0;
#endif
}

/// A callback that shows a bar on standard error.
inline bool show_progress(const PipelineStep& step) {
  std::fprintf(stderr, "\r%s", progress_bar(step.step_index + 1, step.num_steps).c_str());
  if (step.step_index + 1 == step.num_steps) std::fprintf(stderr, "\r%64s\r", "");
  return true;
}

/// @throws std::invalid_argument if a flag is given that the skip mode doesn't read.
inline void check_mode_flags(const Options& options) {
  for (const auto& [flag, modes] : options.mode_flags)
    if (flag->count() > 0 && !modes.contains(options.request.cache.skip_mode))
      throw std::invalid_argument(flag->get_name() + " has no use in this --skip-mode: " + flag->get_description());
}

/// Completes `options.request` from the other flags, and sets up logging and threads as they say.
/// @throws std::invalid_argument for flags that don't go together.
inline void prepare(Options& options) {
  auto& request = options.request;
  check_mode_flags(options);
  enable_logging(options.verbose ? LogLevel::kDebug : LogLevel::kWarning);
  if (options.threads > 0) at::set_num_threads(options.threads);
  if (options.seed < 0) {
    options.seed = std::random_device()();
    std::printf("seed %lld\n", static_cast<long long>(options.seed));
  }
  if (!options.prompts_file.empty()) request.prompts = load_prompts(options.prompts_file);
  const auto folder = std::filesystem::path(options.model).lexically_normal();
  request.model = (folder.has_filename() ? folder : folder.parent_path()).filename().string();
  request.params.seeds = {static_cast<std::uint64_t>(options.seed)};
  if (!options.init_latents.empty()) request.params.latents = load_tensor(options.init_latents);
  if (options.no_cache) request.cache = {.strict = request.cache.strict};
  if (is_terminal(stderr)) request.params.callback = show_progress;
  request.on_prompt = [](const RunReport& report) { std::printf("%s\n", report.summary().c_str()); };
}

/// What --dtype says.
inline std::optional<torch::Dtype> compute_dtype(const Options& options) {
  if (options.dtype == "float32") return torch::kFloat;
  if (options.dtype == "bfloat16") return torch::kBFloat16;
  if (options.dtype == "float16") return torch::kHalf;
  return options.dtype == "auto" ? fastest_dtype(torch::Device(options.device)) : std::nullopt;
}

/// What a pipeline is loaded with.
inline LoadOptions load_options(const Options& options) {
  return {.device = torch::Device(options.device),
          .scheduler = options.scheduler,
          .controlnets = options.controlnets,
          .compute_dtype = compute_dtype(options),
          .trust_native_code = options.trust_native_code,
          .cuda_graphs = options.cuda_graphs};
}

/// Loads the model that they name, into a kind of pipeline.
template <typename Pipeline>
Pipeline load(const Options& options) {
  auto pipe = Pipeline::load(options.model, load_options(options));
  keep_freed_memory();
  return pipe;
}

/// @throws std::invalid_argument if `options`, once prepared, have no prompt.
inline void require_prompt(const Options& options) {
  if (options.request.prompts.empty()) throw std::invalid_argument("--prompt or --prompts-file is required");
}

/// Of a tuned policy, in which `strict` is as the flags say.
inline CacheParams cache_params(const Options& options, const TunedPolicy& policy, const UNet& unet) {
  auto params = policy.cache_params(unet);
  params.strict = options.request.cache.strict;
  return params;
}

/// Of the policy's file, if one is named; else as the flags say.
inline CacheParams cache_params(const Options& options, const UNet& unet) {
  if (options.cache_policy.empty() || options.no_cache) return options.request.cache;
  return cache_params(options, load_policy(options.cache_policy), unet);
}

/// The same, but that without a flag it is as the policy says that the package carries for such runs, if it does.
inline CacheParams cache_params(const Options& options, const StableDiffusionPipeline& pipe) {
  const auto& request = options.request;
  const auto is_given = [](const CLI::Option* flag) { return flag->count() > 0; };
  const bool is_whole = !request.params.image.defined() && request.refiner == nullptr;  // a run from noise to picture
  if (is_whole && std::ranges::none_of(options.cache_flags, is_given))
    if (const auto policy = package_policy(options.model, pipe.scheduler_name(), request.params.num_inference_steps))
      return cache_params(options, *policy, pipe.unet());
  return cache_params(options, pipe.unet());
}

/// A Stable Diffusion model, for a program that decides itself how to cache.
inline StableDiffusionPipeline load_model(Options& options) {
  prepare(options);
  require_prompt(options);
  return load<StableDiffusionPipeline>(options);
}

/// All of this, for a program of Stable Diffusion.
inline StableDiffusionPipeline load_pipeline(Options& options) {
  auto pipe = load_model(options);
  options.request.cache = cache_params(options, pipe);
  return pipe;
}

/// Parses the arguments and runs the program (the subcommands' callbacks run first). Errors go to standard error.
/// @returns the exit code: 0, or 2 for any error
inline int run(CLI::App& app, int argc, const char* const* argv, const std::function<void()>& program = {}) {
  std::string message;
  try {
    app.parse(argc, argv);
    if (program) program();
    return 0;
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : 2;
  } catch (const c10::Error& error) {
    message = error.what_without_backtrace();
  } catch (const std::exception& error) {
    message = error.what();
  }
  std::fprintf(stderr, "%s: %s\n", app.get_name().c_str(), message.c_str());
  return 2;
}

}  // namespace deepcache::cli
