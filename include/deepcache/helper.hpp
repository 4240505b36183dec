#pragma once

#include <concepts>
#include <cstdint>
#include <filesystem>
#include <limits>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "deepcache/cache_policy.hpp"
#include "deepcache/unet.hpp"

/// DeepCache (arXiv 2312.00858): computes a UNet's deep layers every few steps, and in between only a shallow branch.
///
///   auto unet = deepcache::UNet::load("unet.pt");
///   deepcache::Helper helper(unet);
///   helper.set_params({.cache_interval = 3, .cache_branch_id = 0});
///   helper.enable();
///   helper.reset();  // before each run
///   for (...) noise = unet(latents, timestep, text_embeddings);  // full or shallow, as the policy says
///
/// Not for transformers, nor for UNets without skip concatenations.
namespace deepcache {

/// How the UNet's calls become step indices.
enum class StepCounting {
  kCalls,     ///< each call is a step: 0, 1, 2, ...
  kTimesteps  ///< compatibility: the first position of the call's timestep in the schedule, as Python's
              ///< DeepCacheSDHelper (extension/deepcache.py) counts. PLMS repeats a timestep: 0, 1, 1, 3, ...
};

/// Which steps are full: by `make_uniform_policy`, `make_even_policy`, `make_quad_policy`, `make_center_policy`,
/// `make_list_policy` or `make_timestep_policy`. kEven, kQuad, kCenter and kTimesteps, and `full_first` and
/// `full_last`, need to know the run's timesteps: pipelines tell, and in a loop of one's own each run begins by
/// `unet.begin_run(scheduler->timesteps())`, instead of `reset`.
///
/// kAdaptive decides by the UNet's first input, the sample: a step is full where that is farther than `tolerance` from
/// what it was at the last full step, by norm and relative to itself, all items of a batch together. On other devices
/// than the CPU that waits for the device in each step.
enum class SkipMode { kUniform, kEven, kQuad, kCenter, kList, kTimesteps, kAdaptive };

/// The `cache_branch_id` of no cut: the UNet's output itself is cached and forecast, and a cached step computes
/// nothing. Then a cached step knows nothing of the sample, but costs nothing: with as many full steps pictures are
/// farther from the uncached ones than with a branch, and at one speed, with more of them, they may be nearer
/// (docs/quality.md).
constexpr std::int64_t kWholeOutput = -1;

/// Defaults are those of Python's DeepCacheSDHelper.set_params, but for `forecast_order`, which it doesn't have.
struct CacheParams {
  std::int64_t cache_interval = 1;   ///< of kUniform, kEven, kQuad and kCenter: a full one in so many calls of the UNet
                                     ///< (Heun makes two a step); 1: all
  std::int64_t cache_branch_id = 0;  ///< the skip concatenation to cut at, counted back from the output; kWholeOutput
  std::string cache_module = {};     ///< if not empty, names the place instead: "up_blocks.3.resnets.2", or its end
  /// The feature of a cached step: 0: the latest as it is, as in DeepCache; 1, 2: forecast by a polynomial of that
  /// order through the latest 2 or 3, which are held. How far it is followed is judged at each full step
  /// (`FeatureHistory` in src/core): about as far as would have been best there. A run whose batches are guided must
  /// say so (`RunTraits::guided`): there it begins when it can be judged, and where the scheduler adds noise it was
  /// worse, and isn't done. docs/quality.md has what it gives.
  std::int64_t forecast_order = 1;
  SkipMode skip_mode = SkipMode::kUniform;
  double pow = 1.2;         ///< of kQuad and kCenter: above 1, to 10; the higher, the less even
  std::int64_t center = 0;  ///< of kCenter: the step about which full ones are closest, 0 to the run's number of calls
  std::vector<std::int64_t> full_steps = {};  ///< of kList: the first 0, and rising, below the run's calls of the UNet
  std::vector<ForecastShares> forecast_shares = {};  ///< of kList: of the cached steps after each of them, how much of
                                                     ///< the forecast is followed; empty: as is judged
  std::int64_t num_steps = 0;     ///< of kList: calls of the UNet that a run must have; 0: any number
  double timestep_distance = 0;   ///< of kTimesteps: above 0
  double tolerance = 0.18;        ///< of kAdaptive: above 0, below 1
  std::int64_t max_interval = 8;  ///< of kAdaptive: a full call in so many at least; in half as many at first
  std::int64_t full_first = 0, full_last = 0;  ///< calls at a run's begin and end that are full besides
  bool strict = false;  ///< what is otherwise a warning, once a helper, is an error: runs whose scheduler adds noise in
                        ///< its steps, and schedules of 2 to 9 calls from noise to picture, where pictures are known to
                        ///< change more; of runs of which `begin_run` tells
  StepCounting step_counting = StepCounting::kCalls;
  std::shared_ptr<const CachePolicy> policy = {};  ///< if set, decides instead of skip_mode and what it reads
};

/// One step, as it was run.
struct StepStats {
  std::int64_t step_index = 0;  ///< of its context
  std::string context;
  bool full = false;
  double milliseconds = 0;  ///< of the UNet and the cache, on its device
  /// Of a full step whose feature was kept, |feature - forecast| / |feature|: how far off it would have been as a
  /// cached one. NaN if there was nothing to forecast from.
  double forecast_error = std::numeric_limits<double>::quiet_NaN();
};

/// What was done since the last reset.
struct CacheStats {
  std::vector<StepStats> steps;
  std::int64_t full_steps = 0;
  std::int64_t cached_steps = 0;
  std::int64_t cache_branch_id = 0;  ///< where the UNet is cut, if by cache_module too; kWholeOutput
  std::string policy;  ///< which steps are full: `CachePolicy::describe()`; empty if only a run's begin will tell
  std::int64_t cache_bytes = 0;  ///< of features held now, all contexts together
  Macs full_step;                ///< of one full step, for the shapes of the latest full one
  Macs cached_step;
  std::int64_t macs_saved = 0;  ///< by the cached steps together, at those shapes
};

/// Decides call by call what of a UNet is computed. Disabled, or in a full step, the output is bit for bit the UNet's.
/// A cached feature is used only for the run, context, parameters, shapes, dtypes and device that it was computed for;
/// where they change, the step is a full one. After an exception the cache is empty, and the helper usable: the next
/// run begins anew, by `begin_run` where it needs that. One helper serves one thread; for another thread, make a second
/// one from `unet.share_weights()`.
class Helper {
 public:
  /// Acts on this UNet and all copies of the handle while enabled.
  explicit Helper(UNet unet);

  /// From a file or a loaded module, as `UNet` takes them; then call `forward` of this helper, or `unet()`.
  explicit Helper(const std::filesystem::path& file, torch::Device device = torch::kCPU,
                  std::optional<torch::Dtype> dtype = std::nullopt);
  explicit Helper(const torch::jit::Module& module);

  /// Acts on the UNet of a pipeline.
  template <typename Pipeline>
  requires(!std::same_as<Pipeline, Helper>) && requires(Pipeline& pipeline) {
    { pipeline.unet() } -> std::convertible_to<UNet>;
  }
  explicit Helper(Pipeline& pipeline) : Helper(UNet(pipeline.unet())) {}

  ~Helper();  ///< disables
  Helper(Helper&&) noexcept;
  Helper& operator=(Helper&&) noexcept;

  /// Takes effect at the next call; empties the cache, counts steps from 0, clears the statistics. The UNet is cut
  /// here, once for each branch, which takes a tenth of a second with Stable Diffusion's.
  /// @throws std::invalid_argument for a parameter out of its range, a branch that the UNet doesn't have (the message
  ///         names the range), a module name that is unknown or ambiguous, or one that contradicts cache_branch_id.
  void set_params(const CacheParams& params);
  const CacheParams& params() const;

  /// Begins, or ends, to act on the UNet. Enabling resets; disabling empties the cache, and the statistics stay
  /// readable. Calling either twice changes nothing.
  /// @throws std::invalid_argument if another helper is enabled on this UNet.
  void enable();
  void disable();
  bool enabled() const;

  /// Begins a new run: empties the cache, counts steps from 0, clears the statistics, forgets what `UNet::begin_run`
  /// told, which does all this too. Pipelines do this themselves.
  void reset();

  /// Names whose features the next calls use, for apps that run the conditional and the unconditional half as two
  /// calls: each context counts its own steps and has its own cache. The default is "".
  void set_context(std::string context);

  /// `unet().forward(inputs)`: cached while this helper is enabled.
  c10::IValue forward(std::vector<c10::IValue> inputs);

  /// Waits for the device. Its multiply-accumulates are counted as by `UNet::profile`, once for inputs of one shape.
  CacheStats stats() const;
  const UNet& unet() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace deepcache
