#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "deepcache/stable_diffusion.hpp"
#include "deepcache/tuned_policy.hpp"

/// Finds for a model which steps of a run to compute in full, and how far to follow forecasts, by running it.
///
///   auto pipe = deepcache::StableDiffusionPipeline::load("models/emoji");
///   auto tuned = deepcache::tune(pipe, {.prompts = prompts, .full_steps = 10});
///   deepcache::save_policy(tuned.best.policy, "policy.json");
///   ...
///   helper.set_params(deepcache::load_policy("policy.json").cache_params(pipe.unet()));
///
/// Not for models whose steps can't be run some thousand times.
namespace deepcache {

/// Of full steps, on all prompts that are tuned on.
struct TuneTry {
  std::int64_t tries = 0;  ///< so far, those that were looked up not counted
  std::vector<std::int64_t> full_steps = {};
  std::vector<ForecastShares> forecast_shares = {};  ///< empty while full steps are searched
  double psnr_db = 0;
  /// The search moves each full step in turn, back and forth, in passes, until one moves none, and then each share in
  /// the same way. How many moves of this pass are behind it, and how many it has.
  std::int64_t moves_done = 0, moves = 1;
};

/// What to look for.
struct TuneRequest {
  /// Two or more, each run by itself from the parameters' seeds. Every fourth, or else the last, isn't tuned on, but
  /// checked with.
  std::vector<std::string> prompts;
  StableDiffusionParams params = {};
  std::vector<std::int64_t> cache_branch_ids = {0};  ///< each is tuned by itself; kWholeOutput too
  std::int64_t forecast_order = 1;

  // One of the three says what is looked for.
  std::optional<std::int64_t> full_steps = {};  ///< the best places for so many, 1 to the run's steps
  std::optional<double> min_psnr = {};  ///< as few as are found to give this mean PSNR to the uncached pictures, dB
  std::optional<double> speedup = {};   ///< as many as multiply-accumulates allow, above 1

  std::filesystem::path progress = {};  ///< if named, what was tried is kept there, and gone on from
  std::string model = {};               ///< tells weights and dtype from others', so that `progress` isn't mixed up
  std::function<void(const TuneTry& tried)> on_try = {};
};

/// Pictures with so many full steps beside the uncached ones.
struct TunePoint {
  TunedPolicy policy;
  bool on_front = false;       ///< no other point is faster and at least as near to the uncached pictures
  double speedup = 0;          ///< of the steps, by multiply-accumulates
  double uniform_psnr_db = 0;  ///< mean, with uniformly spread full steps, of the prompts that are tuned on
  double tuned_psnr_db = 0;    ///< of the same, with the policy
  double held_out_uniform_psnr_db = 0, held_out_psnr_db = 0;  ///< of those that aren't
};

struct TuneResult {
  TunePoint best;                 ///< its `policy` is what was looked for
  std::vector<TunePoint> points;  ///< of each branch and number of full steps that was tried, from slow to fast
  bool reached = true;            ///< false: `min_psnr` or `speedup` can't be reached, and the policy is the nearest
};

/// Starts from uniformly spread full steps, or from `SkipMode::kEven`'s where they are better, and moves one after the
/// other as long as the pictures come nearer to the uncached ones, by mean PSNR; then finds in the same way how far
/// each interval's forecasts are followed, which is left to be judged in each run if that is nearer. The same result
/// for the same request. Logs a warning if the policy found is worse than uniformly spread full steps on the prompts
/// that it wasn't tuned on: there were too few to tune on. It caches by a helper of its own: no other may be enabled on
/// the pipeline.
/// @throws std::invalid_argument for parameters out of their range, a callback among them, unless one target is given,
///         or if `progress` is of another request.
/// @throws std::runtime_error if `progress` can't be read or written.
TuneResult tune(StableDiffusionPipeline& pipe, const TuneRequest& request);

}  // namespace deepcache
