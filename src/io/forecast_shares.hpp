#pragma once

#include <nlohmann/json.hpp>

#include "deepcache/cache_policy.hpp"
#include "error.hpp"

namespace deepcache {

// nlohmann::json finds these by their names: a pair, [common, difference].

template <typename Json>
void to_json(Json& json, const ForecastShares& shares) {
  json = Json::array({shares.common, shares.difference});
}

/// @throws std::runtime_error for anything else.
template <typename Json>
void from_json(const Json& json, ForecastShares& shares) {
  check_data(json.is_array() && json.size() == 2 && json[0].is_number() && json[1].is_number(),
             "forecast_shares must be pairs of numbers, got {}", json.dump());
  json[0].get_to(shares.common);
  json[1].get_to(shares.difference);
}

}  // namespace deepcache
