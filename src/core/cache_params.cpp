#include "core/cache_params.hpp"

#include <algorithm>

#include "core/non_uniform_policy.hpp"
#include "error.hpp"

namespace deepcache {
namespace {

constexpr std::int64_t kLargestOrder = 2;

/// The end of a path, at a dot: "resnets.2" of "up_blocks.3.resnets.2".
bool ends_with_module(const std::string& path, const std::string& name) {
  return path == name ||
         (path.size() > name.size() && path.ends_with(name) && path[path.size() - name.size() - 1] == '.');
}

/// What can be said before a run of SkipMode::kAdaptive; the helper adds to it.
class AdaptivePolicy : public CachePolicy {
 public:
  explicit AdaptivePolicy(const CacheParams& params) : tolerance_(params.tolerance), longest_(params.max_interval) {
    check_argument(tolerance_ > 0 && tolerance_ < 1, "tolerance must be above 0 and below 1, got {:g}", tolerance_);
    check_argument(longest_ >= 1, "max_interval must be 1 or above, got {}", longest_);
  }
  bool is_full_step(std::int64_t step_index) const override { return step_index == 0; }
  std::string describe() const override {
    return fmt::format("adaptive, tolerance {:g}, every {} steps or oftener", tolerance_, longest_);
  }

 private:
  double tolerance_;
  std::int64_t longest_;
};

/// Nothing if which steps are full depends on the schedule, and that is empty: not known.
std::shared_ptr<const CachePolicy> choose_unwindowed_policy(const CacheParams& params,
                                                            std::span<const double> schedule) {
  if (params.policy) return params.policy;
  if (params.skip_mode == SkipMode::kUniform) return make_uniform_policy(params.cache_interval);
  if (params.skip_mode == SkipMode::kList) return make_list_policy(params.full_steps, params.forecast_shares);
  if (params.skip_mode == SkipMode::kAdaptive) return std::make_shared<AdaptivePolicy>(params);
  if (schedule.empty()) return nullptr;
  const auto num_steps = static_cast<std::int64_t>(schedule.size());
  if (params.skip_mode == SkipMode::kTimesteps) return make_timestep_policy(schedule, params.timestep_distance);
  if (params.skip_mode == SkipMode::kEven) return make_even_policy(num_steps, params.cache_interval);
  if (params.skip_mode == SkipMode::kQuad) return make_quad_policy(num_steps, params.cache_interval, params.pow);
  return make_center_policy(num_steps, params.cache_interval, params.center, params.pow);
}

}  // namespace

void check_params(const CacheParams& params) {
  check_argument(params.forecast_order >= 0 && params.forecast_order <= kLargestOrder,
                 "forecast_order must be 0 to {}, got {}", kLargestOrder, params.forecast_order);
  check_argument(params.num_steps >= 0, "num_steps must be 0 or above, got {}", params.num_steps);
  check_argument(params.full_first >= 0, "full_first must be 0 or above, got {}", params.full_first);
  check_argument(params.full_last >= 0, "full_last must be 0 or above, got {}", params.full_last);
  if (params.policy) return;
  if (params.skip_mode == SkipMode::kAdaptive) AdaptivePolicy{params};
  if (params.skip_mode == SkipMode::kTimesteps) make_timestep_policy({}, params.timestep_distance);
  if (params.skip_mode == SkipMode::kEven) make_even_policy(1, params.cache_interval);
  if (params.skip_mode != SkipMode::kQuad && params.skip_mode != SkipMode::kCenter) return;
  const auto center = params.skip_mode == SkipMode::kCenter ? params.center : 0;
  check_non_uniform({.cache_interval = params.cache_interval, .center = center, .pow = params.pow});
}

std::int64_t find_branch(const CacheParams& params, const std::vector<std::string>& names) {
  const auto count = static_cast<std::int64_t>(names.size());
  if (params.cache_module.empty()) {
    check_argument(params.cache_branch_id >= kWholeOutput && params.cache_branch_id < count,
                   "cache_branch_id must be 0 to {} for this UNet, or {} for its whole output, got {}", count - 1,
                   kWholeOutput, params.cache_branch_id);
    return params.cache_branch_id;
  }
  std::vector<std::int64_t> found;
  for (std::int64_t i = 0; i < count; ++i)
    if (ends_with_module(names[static_cast<std::size_t>(i)], params.cache_module)) found.push_back(i);
  check_argument(std::ranges::any_of(names, [](const auto& name) { return !name.empty(); }),
                 "cache_module needs the submodules' names, which this UNet has lost (frozen?): give cache_branch_id, "
                 "0 to {}",
                 count - 1);
  check_argument(found.size() == 1, "cache_module must name one of {}; \"{}\" names {} of them", fmt::join(names, ", "),
                 params.cache_module, found.size());
  check_argument(params.cache_branch_id == 0 || params.cache_branch_id == found[0],
                 "cache_module \"{}\" is branch {}, but cache_branch_id says {}: give one of the two",
                 params.cache_module, found[0], params.cache_branch_id);
  return found[0];
}

bool caches(const CacheParams& params) {
  return params.policy || params.cache_interval > 1 || params.skip_mode == SkipMode::kList ||
         params.skip_mode == SkipMode::kTimesteps || params.skip_mode == SkipMode::kAdaptive;
}

bool is_adaptive(const CacheParams& params) {
  return !params.policy && params.skip_mode == SkipMode::kAdaptive;
}

std::shared_ptr<const CachePolicy> choose_policy(const CacheParams& params, std::span<const double> schedule) {
  auto policy = choose_unwindowed_policy(params, schedule);
  if (!policy || (params.full_first == 0 && params.full_last == 0)) return policy;
  if (schedule.empty()) return nullptr;
  return make_window_policy(std::move(policy), static_cast<std::int64_t>(schedule.size()), params.full_first,
                            params.full_last);
}

void check_schedule(const CacheParams& params, std::span<const double> schedule, const RunTraits& run) {
  if (params.policy || params.skip_mode != SkipMode::kList || schedule.empty()) return;
  const auto size = static_cast<std::int64_t>(schedule.size());
  check_argument(params.num_steps == 0 || params.num_steps == size,
                 "the full steps are for runs of {} calls of the UNet, got a run of {}", params.num_steps, size);
  const auto whole = std::max(size, run.schedule_size);
  check_argument(params.full_steps.back() < whole, "full_steps must be below the run's {} calls of the UNet, got {}",
                 whole, params.full_steps.back());
}

}  // namespace deepcache
