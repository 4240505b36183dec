#include "pipelines/scheduler_source.hpp"

#include <stdexcept>

#include "error.hpp"
#include "io/files.hpp"

namespace deepcache {

SchedulerSource::SchedulerSource(const ModelPackage& package, std::string_view class_name)
    : file_(package.file("scheduler/scheduler_config.json")), config_(read_file(file_)), class_name_(class_name) {}

std::unique_ptr<Scheduler> SchedulerSource::make() const {
  try {
    return Scheduler::from_json(config_, class_name_);
  } catch (const std::runtime_error& error) {
    throw std::runtime_error(fmt::format("{}: {}", file_.string(), error.what()));
  }
}

SchedulerSource SchedulerSource::with(std::string_view class_name) const {
  auto other = *this;
  other.class_name_ = class_name;
  return other;
}

}  // namespace deepcache
