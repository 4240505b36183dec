#pragma once

#include <deepcache/unet.hpp>

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

/// What other processes take turns with: see turns.py.
namespace deepcache::bench {

/// Says that it is ready, and then for each line read calls `work` and writes its milliseconds.
void serve(const std::function<void(const std::string& line)>& work);

struct StepOptions {
  std::int64_t cache_branch_id = 0;
  std::int64_t steps = 50, cache_interval = 3;  ///< of a run
  int threads = 2;                              ///< of all helpers together
  int helpers = 1;                              ///< each in its own thread, on the same weights
};

/// Serves steps of a UNet, "full" and "cached", and "run": so many steps, under each helper at the same time.
/// @throws std::invalid_argument if the threads can't be shared out among the helpers, or for another line.
void serve_steps(const UNet& unet, const std::vector<c10::IValue>& inputs, const StepOptions& options);

}  // namespace deepcache::bench
