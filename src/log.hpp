#pragma once

#include <string_view>

#include "deepcache/logging.hpp"

namespace deepcache {

/// Hands a message to the logger registered as "deepcache"; drops it if there is none.
void log(LogLevel level, std::string_view message);

}  // namespace deepcache
