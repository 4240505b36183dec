// Whole text-to-image runs, for compare_runs.py, which has other processes take turns with this one.
//
//   echo "3 1" | pipeline_bench --package models/emoji --steps 20
//
// Each line read, "INTERVAL BATCH" (interval 1: no cache), is a run of that many pictures; its milliseconds are
// written. With --macs, the multiply-accumulates of one uncached run of a picture are written instead.

#include <ATen/Parallel.h>
#include <deepcache/cli.hpp>
#include <deepcache/deepcache.hpp>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <sstream>
#include <stdexcept>

#include "core/macs.hpp"
#include "serve.hpp"

namespace {

struct Options {
  std::string package, scheduler, prompt = "red heart";
  std::int64_t steps = 50, width = 0, height = 0;
  double guidance_scale = 7.5;
  int threads = 2;
  bool macs = false;
};

void add_flags(CLI::App& app, Options& o) {
  app.add_option("--package", o.package, "Model package folder")->required();
  app.add_option("--prompt", o.prompt, "What to paint")->capture_default_str();
  app.add_option("--scheduler", o.scheduler, "Instead of the package's own");
  app.add_option("--steps", o.steps, "Denoising steps")->capture_default_str();
  app.add_option("--guidance-scale", o.guidance_scale, "1: no guidance")->capture_default_str();
  app.add_option("--width", o.width, "Pixels; 0: the model's own")->capture_default_str();
  app.add_option("--height", o.height, "Pixels; 0: the model's own")->capture_default_str();
  app.add_option("--threads", o.threads, "CPU threads")->check(CLI::PositiveNumber)->capture_default_str();
  app.add_flag("--macs", o.macs, "Count the multiply-accumulates of an uncached run");
}

void run(const Options& o) {
  auto pipe = deepcache::StableDiffusionPipeline::load(o.package, {.scheduler = o.scheduler});
  deepcache::keep_freed_memory();
  deepcache::Helper helper(pipe);
  deepcache::StableDiffusionParams params{
      .num_inference_steps = o.steps, .guidance_scale = o.guidance_scale, .height = o.height, .width = o.width};
  if (o.macs) {
    const deepcache::MacCounter counter;
    pipe(o.prompt, params);
    std::printf("%lld\n", static_cast<long long>(counter.macs().total()));
    return;
  }
  deepcache::bench::serve([&](const std::string& line) {
    deepcache::CacheParams cache;
    std::istringstream words(line);
    if (!(words >> cache.cache_interval >> params.num_images_per_prompt))
      throw std::invalid_argument("a line must be two numbers, interval and batch, got \"" + line + "\"");
    helper.set_params(cache);
    helper.enable();
    pipe(o.prompt, params);
  });
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app("Whole text-to-image runs, one for each line read", "pipeline_bench");
  Options options;
  add_flags(app, options);
  return deepcache::cli::run(app, argc, argv, [&] {
    at::set_num_threads(options.threads);
    run(options);
  });
}
