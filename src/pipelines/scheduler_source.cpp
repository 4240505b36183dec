#include "pipelines/scheduler_source.hpp"

#include <stdexcept>

#include "error.hpp"
#include "io/files.hpp"

namespace deepcache {

SchedulerSource::SchedulerSource(const ModelPackage& package)
    : file_(package.file("scheduler/scheduler_config.json")), config_(read_file(file_)) {}

std::unique_ptr<Scheduler> SchedulerSource::make(std::string_view class_name) const {
  try {
    auto scheduler = Scheduler::from_json(config_, class_name);
    check_data(scheduler->outputs_a_channel() == 1,
               "{} asks for a UNet that has learned the variance; no pipeline runs one", scheduler->name());
    return scheduler;
  } catch (const std::runtime_error& error) {
    throw std::runtime_error(fmt::format("{}: {}", file_.string(), error.what()));
  }
}

}  // namespace deepcache
