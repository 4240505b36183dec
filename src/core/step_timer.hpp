#pragma once

#include <c10/core/Device.h>

#include <chrono>
#include <memory>

namespace c10 {
struct Event;
}

namespace deepcache {

/// Times a step on its device without waiting for it: by the clock on the CPU, by the device's own events elsewhere.
class StepTimer {
 public:
  explicit StepTimer(c10::Device device);  ///< starts
  ~StepTimer();
  StepTimer(StepTimer&&) noexcept;
  StepTimer& operator=(StepTimer&&) noexcept;
  void stop();
  /// Waits for the device if the step still runs there.
  double milliseconds() const;

 private:
  using Clock = std::chrono::steady_clock;
  c10::Device device_;
  Clock::time_point begin_;
  Clock::time_point end_;
  std::unique_ptr<c10::Event> begin_event_;  // null on the CPU
  std::unique_ptr<c10::Event> end_event_;
};

}  // namespace deepcache
