#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "deepcache/helper.hpp"
#include "deepcache/unet.hpp"

/// Which steps to compute in full, and how far to follow forecasts in the others, as `tune` (tune.hpp) finds it for a
/// model and a file keeps it.
///
///   helper.set_params(deepcache::load_policy("policy.json").cache_params(helper.unet()));
///
/// Not for rules that are written by hand: those are a `CachePolicy`.
namespace deepcache {

/// Of runs of one number of steps.
struct TunedPolicy {
  std::int64_t num_branches = 0;                     ///< of the UNet that it is for
  std::int64_t cache_branch_id = 0;                  ///< 0 to num_branches - 1, or kWholeOutput
  std::int64_t forecast_order = 1;                   ///< 0 to 2
  std::string scheduler = {};                        ///< that it was tuned with (`Scheduler::configured_name`)
  std::int64_t num_inference_steps = 0;              ///< likewise
  std::int64_t num_steps = 0;                        ///< calls of the UNet that these are
  std::vector<std::int64_t> full_steps = {};         ///< the first 0, rising, below num_steps
  std::vector<ForecastShares> forecast_shares = {};  ///< of the cached steps after each of them; empty: as is judged

  /// For `Helper::set_params`.
  /// @throws std::invalid_argument if the UNet has another number of branches.
  CacheParams cache_params(const UNet& unet) const;
};

/// Writes JSON. The file is whole or absent. @throws std::runtime_error if it can't be written.
void save_policy(const TunedPolicy& policy, const std::filesystem::path& file);

/// @throws std::runtime_error naming the file if it can't be read, has another format version, or holds what isn't
///         allowed.
TunedPolicy load_policy(const std::filesystem::path& file);

/// The one that a model package carries, as `policy.json`, for runs as it is given; nothing if it has none, or one that
/// was tuned with another scheduler or number of inference steps.
/// @param scheduler  its `Scheduler::configured_name`, a pipeline's `scheduler_name`
/// @throws std::runtime_error as `load_policy`.
std::optional<TunedPolicy> package_policy(const std::filesystem::path& package, std::string_view scheduler,
                                          std::int64_t num_inference_steps);

}  // namespace deepcache
