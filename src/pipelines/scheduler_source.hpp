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
  explicit SchedulerSource(const ModelPackage& package);

  /// @param class_name  see LoadOptions::scheduler
  /// @throws std::runtime_error or std::invalid_argument as `Scheduler::from_config`.
  std::unique_ptr<Scheduler> make(std::string_view class_name) const;

 private:
  std::filesystem::path file_;
  std::string config_;
};

}  // namespace deepcache
