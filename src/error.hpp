#pragma once

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <stdexcept>
#include <utility>

namespace deepcache {

/// Throws std::invalid_argument with the formatted message unless `condition`: the caller passed something wrong.
template <typename... Args>
void check_argument(bool condition, fmt::format_string<Args...> message, Args&&... args) {
  if (!condition) throw std::invalid_argument(fmt::format(message, std::forward<Args>(args)...));
}

/// Throws std::runtime_error with the formatted message unless `condition`: a file or the data in it is wrong.
template <typename... Args>
void check_data(bool condition, fmt::format_string<Args...> message, Args&&... args) {
  if (!condition) throw std::runtime_error(fmt::format(message, std::forward<Args>(args)...));
}

}  // namespace deepcache
