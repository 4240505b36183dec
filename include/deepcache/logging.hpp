#pragma once

#include <string_view>

/// The library is silent unless an app asks for its messages.
///
///   deepcache::enable_logging(deepcache::LogLevel::kInfo);  // to standard error
///
/// An app that uses spdlog itself registers its own logger as "deepcache" instead (`spdlog::register_logger`).
namespace deepcache {

enum class LogLevel { kDebug, kInfo, kWarning };

/// Registers spdlog's logger "deepcache", which writes messages of this level and above to standard error.
void enable_logging(LogLevel level = LogLevel::kWarning);

}  // namespace deepcache
