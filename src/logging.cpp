#include "deepcache/logging.hpp"

#include <spdlog/sinks/stdout_color_sinks.h>
#include <spdlog/spdlog.h>

#include "log.hpp"

namespace deepcache {
namespace {

constexpr const char* kName = "deepcache";

spdlog::level::level_enum to_spdlog(LogLevel level) {
  switch (level) {
    case LogLevel::kDebug:
      return spdlog::level::debug;
    case LogLevel::kInfo:
      return spdlog::level::info;
    case LogLevel::kWarning:
      break;
  }
  return spdlog::level::warn;
}

}  // namespace

void enable_logging(LogLevel level) {
  auto logger = spdlog::get(kName);
  if (!logger) logger = spdlog::stderr_color_mt(kName);
  logger->set_level(to_spdlog(level));
}

void log(LogLevel level, std::string_view message) {
  if (const auto logger = spdlog::get(kName)) logger->log(to_spdlog(level), "{}", message);
}

}  // namespace deepcache
