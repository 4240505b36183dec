#pragma once

#include <cstddef>
#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string_view>
#include <utility>
#include <vector>

namespace deepcache {

/// Reads the settings of one of a pipeline's JSON files as diffusers does: a missing key has the default of the class
/// that asks, a key that no class asks for is ignored. What isn't ignored is checked: every getter throws
/// std::runtime_error that names the key, its value and what is allowed.
class ConfigReader {
 public:
  /// `config` must be a JSON object, and outlive the reader.
  explicit ConfigReader(const nlohmann::json& config);

  /// Whether the setting is there, and isn't null.
  bool holds(std::string_view key) const;

  /// Checks that it is.
  void require(std::string_view key) const;

  bool boolean(std::string_view key, bool missing) const;
  std::int64_t integer(std::string_view key, std::int64_t missing, std::int64_t min, std::int64_t max) const;
  /// Also "-Infinity", if `min` is that.
  double number(std::string_view key, double missing, double min, double max) const;

  /// Nothing if the key is missing or null.
  std::optional<double> optional_number(std::string_view key, double min, double max) const;

  /// Empty if the key is missing or null.
  std::vector<double> numbers(std::string_view key, double min, double max) const;

  /// Whether the setting is a list of anything.
  bool is_list(std::string_view key) const;

  /// Empty if the key is missing.
  std::vector<std::int64_t> integers(std::string_view key) const;

  /// Checks that what diffusers can switch on, and this library doesn't have, is missing or false.
  void require_false(std::string_view key) const;

  /// Checks that the setting is missing or null, `because` any other value isn't supported.
  void require_null(std::string_view key, std::string_view because) const;

  /// The value whose name the setting holds.
  template <typename Value>
  Value choice(std::string_view key, Value missing,
               const std::vector<std::pair<std::string_view, Value>>& choices) const {
    std::vector<std::string_view> names;
    for (const auto& [name, value] : choices) names.push_back(name);
    const std::size_t index = name_index(key, names);
    return index < names.size() ? choices[index].second : missing;
  }

 private:
  const nlohmann::json* find(std::string_view key) const;
  /// Which of `names` the setting holds; their number if the key is missing.
  std::size_t name_index(std::string_view key, const std::vector<std::string_view>& names) const;

  const nlohmann::json& config_;
};

}  // namespace deepcache
