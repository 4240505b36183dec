#include "deepcache/tuned_policy.hpp"

#include <limits>
#include <nlohmann/json.hpp>

#include "deepcache/cache_policy.hpp"
#include "error.hpp"
#include "io/config_reader.hpp"
#include "io/files.hpp"
#include "io/forecast_shares.hpp"

namespace deepcache {
namespace {

constexpr std::int64_t kPolicyFormat = 2, kMostSteps = 1'000'000, kMostBranches = 1000;

TunedPolicy read_policy(const nlohmann::json& json) {
  check_data(json.is_object(), "a policy must be a JSON object");
  const ConfigReader reader(json);
  const auto integer = [&](const char* key, std::int64_t min, std::int64_t max) {
    reader.require(key);
    return reader.integer(key, min, min, max);
  };
  constexpr auto kAny = std::numeric_limits<std::int64_t>::max();
  const auto version = integer("format_version", 0, kAny);
  check_data(version == kPolicyFormat, "format_version must be {}, got {}", kPolicyFormat, version);
  TunedPolicy policy{.num_branches = integer("num_branches", 1, kMostBranches)};
  policy.cache_branch_id = integer("cache_branch_id", kWholeOutput, policy.num_branches - 1);
  policy.forecast_order = integer("forecast_order", 0, 2);
  check_data(json.contains("scheduler") && json["scheduler"].is_string(), "\"scheduler\" must be there, and a name");
  policy.scheduler = json["scheduler"];
  policy.num_inference_steps = integer("num_inference_steps", 1, kMostSteps);
  policy.num_steps = integer("num_steps", 1, kMostSteps);
  reader.require("full_steps");
  policy.full_steps = reader.integers("full_steps");
  if (json.contains("forecast_shares")) json["forecast_shares"].get_to(policy.forecast_shares);
  make_list_policy(policy.full_steps, policy.forecast_shares);  // checks them
  check_data(policy.full_steps.back() < policy.num_steps, "full_steps must be below num_steps, {}, got {}",
             policy.num_steps, policy.full_steps.back());
  return policy;
}

}  // namespace

CacheParams TunedPolicy::cache_params(const UNet& unet) const {
  check_argument(num_branches == unet.num_branches(), "the policy is for a UNet of {} branches, got one of {}",
                 num_branches, unet.num_branches());
  return {.cache_branch_id = cache_branch_id,
          .forecast_order = forecast_order,
          .skip_mode = SkipMode::kList,
          .full_steps = full_steps,
          .forecast_shares = forecast_shares,
          .num_steps = num_steps};
}

void save_policy(const TunedPolicy& policy, const std::filesystem::path& file) {
  nlohmann::ordered_json json{{"format_version", kPolicyFormat},
                              {"num_branches", policy.num_branches},
                              {"cache_branch_id", policy.cache_branch_id},
                              {"forecast_order", policy.forecast_order},
                              {"scheduler", policy.scheduler},
                              {"num_inference_steps", policy.num_inference_steps},
                              {"num_steps", policy.num_steps},
                              {"full_steps", policy.full_steps}};
  if (!policy.forecast_shares.empty()) json["forecast_shares"] = policy.forecast_shares;
  write_file(file, json.dump(2) + "\n");
}

TunedPolicy load_policy(const std::filesystem::path& file) {
  const auto json = read_json(file);
  try {
    return read_policy(json);
  } catch (const std::exception& error) {
    throw std::runtime_error(fmt::format("{}: {}", file.string(), error.what()));
  }
}

std::optional<TunedPolicy> package_policy(const std::filesystem::path& package, std::string_view scheduler,
                                          std::int64_t num_inference_steps) {
  const auto file = package / "policy.json";
  if (!std::filesystem::exists(file)) return std::nullopt;
  auto policy = load_policy(file);
  if (policy.scheduler != scheduler || policy.num_inference_steps != num_inference_steps) return std::nullopt;
  return policy;
}

}  // namespace deepcache
