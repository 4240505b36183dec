#pragma once

#include <torch/types.h>

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "deepcache/helper.hpp"
#include "deepcache/stable_diffusion.hpp"

/// Ways of running a model side by side: how fast each is, and how near its pictures are to the uncached ones.
///
///   auto pipe = deepcache::StableDiffusionPipeline::load("models/emoji");
///   auto comparison = deepcache::compare(pipe, {.model = "emoji", .prompts = {"red heart", "panda"}});
///   std::puts(comparison.table().c_str());
///   deepcache::save_text(comparison.html(), "comparison.html");
///
/// Not for one way alone: `generate` with `compare` writes its pictures too.
namespace deepcache {

/// Something to compare with the uncached run.
struct Way {
  std::string name;                      ///< "forecast, every 3"
  std::string kind = {};                 ///< "forecast": ways of one kind are a line of the plot
  CacheParams cache = {};                ///< by default none
  std::int64_t num_inference_steps = 0;  ///< 0: the request's
};

struct CompareRequest {
  std::string model = {};  ///< its name in the report
  std::vector<std::string> prompts;
  StableDiffusionParams params = {};

  /// Each, 2 or more, is run as plain DeepCache, with forecasts, with forecasts and as many full steps spread evenly to
  /// the last but one (`SkipMode::kEven`; if these are others), with these steps and forecasts of the whole output
  /// (`kWholeOutput`), and as an uncached run of fewer steps, as many as cost the same multiply-accumulates.
  std::vector<std::int64_t> intervals = {2, 3, 5, 10};
  std::vector<double> tolerances = {0.1, 0.18, 0.3};  ///< of adaptive refreshes (`SkipMode::kAdaptive`)
  std::int64_t cache_branch_id = 0;                   ///< of all but those of the whole output
  std::int64_t forecast_order = 1;                    ///< of forecasts and adaptive refreshes, 1 or 2
  std::vector<Way> further = {};                      ///< tuned policies for example

  /// Before each run: its number, from 0, of how many, and which way it is.
  std::function<void(std::int64_t run, std::int64_t num_runs, const Way& way)> on_run = {};
};

/// A run beside the uncached one of the same prompt and seeds.
struct WayScore {
  double milliseconds = 0;  ///< the whole call: text encoder, steps, decoding
  double speedup = 1;       ///< in time
  double macs_speedup = 1;  ///< of the UNet, by multiply-accumulates
  double psnr_db = 0;       ///< of all its pictures together; 100 for equal ones
  double ssim = 0;          ///< NaN for pictures of less than 11 pixels
  double latent_error = 0;  ///< |latents - uncached| / |uncached|, of the final ones
  double full_steps = 0;    ///< calls of the UNet
  double cached_steps = 0;  ///< likewise
  std::int64_t cache_bytes = 0;
};

struct WayResult {
  Way way;
  std::string policy = {};             ///< which steps were full: `CacheStats::policy`
  std::int64_t cache_branch_id = 0;    ///< likewise
  WayScore score = {};                 ///< of all prompts: medians of time and speedup, means of the others, most bytes
  std::vector<WayScore> prompts = {};  ///< of each
  std::vector<double> step_errors = {};      ///< the mean latent error after each step; empty if there are fewer steps
  std::vector<torch::Tensor> pictures = {};  ///< [3, H, W], the first one of each of the first six prompts
};

struct Comparison {
  std::string request = "{}";        ///< what was asked, as in `RunReport::request`, with "prompts"
  std::vector<std::string> prompts;  ///< that were run with all ways
  std::vector<WayResult> ways;       ///< the first is the uncached run

  /// For people: a line for each way.
  std::string table() const;

  /// {"request", "ways": [{"name", "kind", "steps", "cache": {"policy", "branch_id", "forecast_order"},
  ///  a score's members, "step_errors", "prompts": [a score's members]}]}; what is NaN is null.
  std::string json() const;

  /// The ways' pictures, a row for each of the first prompts; large ones are shown at 256 pixels.
  torch::Tensor contact_sheet() const;

  /// A page that needs nothing else: table, plots of PSNR against speedup and of the latents' error after each step,
  /// contact sheet.
  std::string html() const;
};

/// Runs the ways in turns, prompt by prompt, after a short run for warming up. If the parameters' callback ends a run,
/// the result is of the prompts before. It caches by a helper of its own: no other may be enabled on the pipeline.
/// @throws std::invalid_argument as the pipeline and `Helper::set_params` do, for one of the ways by name; for no
///         prompts, intervals below 2, or parameters that don't decode pictures.
Comparison compare(StableDiffusionPipeline& pipe, const CompareRequest& request);

}  // namespace deepcache
