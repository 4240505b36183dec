#pragma once

#include <filesystem>
#include <memory>
#include <string>
#include <string_view>

#include "deepcache/scheduler.hpp"
#include "models/model_package.hpp"

namespace deepcache {

/// Makes a package's schedulers: the file is read once, when it is checked against the manifest.
class SchedulerSource {
 public:
  /// @param class_name  see LoadOptions::scheduler
  SchedulerSource(const ModelPackage& package, std::string_view class_name);

  /// @throws std::runtime_error or std::invalid_argument as `Scheduler::from_config`.
  std::unique_ptr<Scheduler> make() const;

  /// The same settings for another class.
  SchedulerSource with(std::string_view class_name) const;

 private:
  std::filesystem::path file_;
  std::string config_;
  std::string class_name_;
};

}  // namespace deepcache
