#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "deepcache/helper.hpp"

/// What a helper's parameters ask for. What is wrong with them is a std::invalid_argument.
namespace deepcache {

/// What can be said before the schedule is known.
void check_params(const CacheParams& params);

/// That the full steps of a list are steps of the run, or of the whole that it is a part of.
void check_schedule(const CacheParams& params, std::span<const double> schedule, const RunTraits& run);

/// The branch that they name, of a UNet whose branches have these names, by cache_branch_id.
std::int64_t find_branch(const CacheParams& params, const std::vector<std::string>& names);

/// Whether any step may be a cached one.
bool caches(const CacheParams& params);

bool is_adaptive(const CacheParams& params);

/// Nothing if which steps are full depends on the schedule, and that is empty: not known.
std::shared_ptr<const CachePolicy> choose_policy(const CacheParams& params, std::span<const double> schedule);

}  // namespace deepcache
