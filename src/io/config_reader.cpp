#include "io/config_reader.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>
#include <string>

#include "error.hpp"

namespace deepcache {
namespace {

/// As Scheduler::from_json quotes it.
constexpr const char* kMinusInfinity = "-Infinity";

[[noreturn]] void refuse(std::string_view key, const nlohmann::json& value, std::string_view allowed) {
  constexpr std::size_t kLongestShown = 80;
  std::string text = value.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
  if (text.size() > kLongestShown) text = text.substr(0, kLongestShown) + "...";
  throw std::runtime_error(fmt::format("the setting \"{}\" is {}; it must be {}", key, text, allowed));
}

template <typename Number>
std::string describe_range(std::string_view kind, Number min, Number max) {
  if (min == -std::numeric_limits<double>::infinity()) return fmt::format("{} of at most {}", kind, max);
  if (max == std::numeric_limits<Number>::max()) return fmt::format("{} of at least {}", kind, min);
  return fmt::format("{} from {} to {}", kind, min, max);
}

bool is_number_in(const nlohmann::json& value, double min, double max) {
  return value.is_number() && value.get<double>() >= min && value.get<double>() <= max;
}

}  // namespace

ConfigReader::ConfigReader(const nlohmann::json& config) : config_(config) {
  check_data(config.is_object(), "a configuration must be a JSON object, not {}", config.type_name());
}

const nlohmann::json* ConfigReader::find(std::string_view key) const {
  const auto found = config_.find(std::string(key));
  return found == config_.end() ? nullptr : &*found;
}

bool ConfigReader::holds(std::string_view key) const {
  const auto* value = find(key);
  return value != nullptr && !value->is_null();
}

void ConfigReader::require(std::string_view key) const {
  check_data(holds(key), "the setting \"{}\" is missing", key);
}

bool ConfigReader::boolean(std::string_view key, bool missing) const {
  const auto* value = find(key);
  if (value == nullptr) return missing;
  if (!value->is_boolean()) refuse(key, *value, "true or false");
  return value->get<bool>();
}

std::int64_t ConfigReader::integer(std::string_view key, std::int64_t missing, std::int64_t min,
                                   std::int64_t max) const {
  const auto* value = find(key);
  if (value == nullptr) return missing;
  if (!value->is_number_integer() || !is_number_in(*value, static_cast<double>(min), static_cast<double>(max)))
    refuse(key, *value, describe_range("an integer", min, max));
  return value->get<std::int64_t>();
}

double ConfigReader::number(std::string_view key, double missing, double min, double max) const {
  const auto* value = find(key);
  if (value == nullptr) return missing;
  if (*value == kMinusInfinity && std::isinf(min)) return min;
  if (!is_number_in(*value, min, max)) refuse(key, *value, describe_range("a number", min, max));
  return value->get<double>();
}

std::optional<double> ConfigReader::optional_number(std::string_view key, double min, double max) const {
  const auto* value = find(key);
  if (value == nullptr || value->is_null()) return std::nullopt;
  if (!is_number_in(*value, min, max)) refuse(key, *value, "null or " + describe_range("a number", min, max));
  return value->get<double>();
}

std::vector<double> ConfigReader::numbers(std::string_view key, double min, double max) const {
  const auto* value = find(key);
  if (value == nullptr || value->is_null()) return {};
  const auto in_range = [&](const nlohmann::json& item) { return is_number_in(item, min, max); };
  if (!value->is_array() || value->empty() || !std::ranges::all_of(*value, in_range))
    refuse(key, *value, "null or a list of " + describe_range("numbers", min, max));
  return value->get<std::vector<double>>();
}

bool ConfigReader::is_list(std::string_view key) const {
  const auto* value = find(key);
  return value != nullptr && value->is_array();
}

std::vector<std::int64_t> ConfigReader::integers(std::string_view key) const {
  const auto* value = find(key);
  if (value == nullptr) return {};
  const auto is_integer = [](const nlohmann::json& item) { return item.is_number_integer(); };
  if (!value->is_array() || !std::ranges::all_of(*value, is_integer)) refuse(key, *value, "a list of integers");
  return value->get<std::vector<std::int64_t>>();
}

void ConfigReader::require_false(std::string_view key) const {
  const auto* value = find(key);
  if (value != nullptr && *value != false) refuse(key, *value, "false: this library doesn't have it");
}

void ConfigReader::require_null(std::string_view key, std::string_view because) const {
  if (holds(key)) refuse(key, *find(key), fmt::format("null: {}", because));
}

std::size_t ConfigReader::name_index(std::string_view key, const std::vector<std::string_view>& names) const {
  const auto* value = find(key);
  if (value == nullptr) return names.size();
  const auto found = value->is_string() ? std::ranges::find(names, value->get<std::string>()) : names.end();
  if (found == names.end()) {
    std::string allowed = "one of";
    for (const auto name : names) allowed += fmt::format("{} \"{}\"", name == names.front() ? "" : ",", name);
    refuse(key, *value, allowed);
  }
  return static_cast<std::size_t>(found - names.begin());
}

}  // namespace deepcache
