#pragma once

#include <compare>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

/// Which denoising steps recompute the deep branch.
///
///   struct FirstAndEveryFifth : deepcache::CachePolicy {
///     bool is_full_step(std::int64_t step_index) const override { return step_index % 5 == 0; }
///     std::string describe() const override { return "first and every fifth"; }
///   };
///   helper.set_params({.policy = std::make_shared<FirstAndEveryFifth>()});
///
/// Not for deciding what is cached: that is `CacheParams::cache_branch_id`.
namespace deepcache {

/// How much of a forecast (`CacheParams::forecast_order`) a cached step follows: 0: none, the latest feature is used as
/// it is; 1: all. That is for as far ahead as the last two full steps are apart; nearer, less of the difference from 1.
struct ForecastShares {
  double common = 1;      ///< of the feature; in a guided run, of what the two halves of the batch have in common
  double difference = 1;  ///< in a guided run, of what they differ in

  auto operator<=>(const ForecastShares&) const = default;
};

/// A pure rule: the same answer for the same step, no state, no tensors. May be shared between helpers and threads.
class CachePolicy {
 public:
  virtual ~CachePolicy() = default;

  /// Whether the step computes the whole UNet and refreshes the cache. The first step of a run always does.
  /// @param step_index  counts the UNet's calls of a run (and context) from 0
  virtual bool is_full_step(std::int64_t step_index) const = 0;

  /// How the feature that a cached step uses is made of those of the last full steps: as their sum with these weights,
  /// newest first. Empty: as `CacheParams::forecast_order` says.
  virtual std::vector<double> forecast_weights(std::int64_t /*step_index*/) const { return {}; }

  /// The most weights that a step has.
  virtual std::int64_t num_forecast_weights() const { return 0; }

  /// How much of the forecast a cached step follows. Nothing: as much as is judged to be best, at each full step.
  virtual std::optional<ForecastShares> forecast_shares(std::int64_t /*step_index*/) const { return {}; }

  /// The rule in words, such as "uniform, every 3 steps". Rules that decide differently have different descriptions.
  virtual std::string describe() const = 0;
};

/// Full steps at 0, N, 2N, ... (DeepCache, arXiv 2312.00858, section 3.2: uniform 1:N). 1 caches nothing.
/// @throws std::invalid_argument if `cache_interval` is below 1.
std::shared_ptr<const CachePolicy> make_uniform_policy(std::int64_t cache_interval);

/// Of a run of `num_steps` calls, as many full steps as `make_uniform_policy` has, evenly spread from the first to the
/// last but one, which matters more than others (docs/quality.md): the k-th of n, from 0, at k * (num_steps - 2) / (n -
/// 1), rounded. Steps beyond `num_steps` are full.
/// @param num_steps       1 to 1,000,000
/// @param cache_interval  1 or above
/// @throws std::invalid_argument if an argument is out of its range.
std::shared_ptr<const CachePolicy> make_even_policy(std::int64_t num_steps, std::int64_t cache_interval);

/// Non-uniform 1:N of a run of `num_steps` calls (section 3.2; `sample_from_quad` of the original's
/// pipeline_stable_diffusion.py): as many full steps as `make_uniform_policy` has, the k-th of n at (k / n)^pow of the
/// run, so that they are closest together at its begin. Where rounding lets two of them coincide, `pow` is lowered by
/// 0.02 until they don't, as in the original. Steps beyond `num_steps` are full.
/// @param pow  above 1, to 10
/// @throws std::invalid_argument if an argument is out of its range, or if no power above 1 gives that many full steps.
std::shared_ptr<const CachePolicy> make_quad_policy(std::int64_t num_steps, std::int64_t cache_interval, double pow);

/// The same with the full steps closest together about step `center` (`sample_from_quad_center`).
/// @param center  0 to num_steps
std::shared_ptr<const CachePolicy> make_center_policy(std::int64_t num_steps, std::int64_t cache_interval,
                                                      std::int64_t center, double pow);

/// Full at the given steps alone.
/// @param forecast_shares  of the cached steps after each of them; empty: as judged
/// @throws std::invalid_argument unless the first is 0 and they rise, and unless the shares are finite, and as many.
std::shared_ptr<const CachePolicy> make_list_policy(std::vector<std::int64_t> full_steps,
                                                    std::vector<ForecastShares> forecast_shares = {});

/// Full where the timestep is at least `distance` from that of the last full step: for schedules with uneven steps,
/// such as Karras sigmas. Steps beyond the schedule are full.
/// @param timesteps  of the run's calls, in their order (`Scheduler::timesteps`)
/// @param distance   in timesteps, whichever way they go
/// @throws std::invalid_argument unless `distance` is finite and above 0.
std::shared_ptr<const CachePolicy> make_timestep_policy(std::span<const double> timesteps, double distance);

/// As `inner`, but full in the first and last so many steps of a run of `num_steps` calls.
/// @throws std::invalid_argument if there is no `inner`, `num_steps` is below 1, or the others below 0.
std::shared_ptr<const CachePolicy> make_window_policy(std::shared_ptr<const CachePolicy> inner, std::int64_t num_steps,
                                                      std::int64_t first, std::int64_t last);

}  // namespace deepcache
