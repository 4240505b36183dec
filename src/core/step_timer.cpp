#include "core/step_timer.hpp"

#include <c10/core/Event.h>
#include <c10/core/impl/VirtualGuardImpl.h>

namespace deepcache {
namespace {

std::unique_ptr<c10::Event> record_event(c10::Device device) {
  auto event = std::make_unique<c10::Event>(device.type(), c10::EventFlag::BACKEND_DEFAULT);
  event->record(c10::impl::VirtualGuardImpl(device.type()).getStream(device));
  return event;
}

}  // namespace

StepTimer::StepTimer(c10::Device device) : device_(device), begin_(Clock::now()), end_(begin_) {
  if (!device.is_cpu()) begin_event_ = record_event(device);
}

StepTimer::~StepTimer() = default;
StepTimer::StepTimer(StepTimer&&) noexcept = default;
StepTimer& StepTimer::operator=(StepTimer&&) noexcept = default;

void StepTimer::stop() {
  end_ = Clock::now();
  if (begin_event_) end_event_ = record_event(device_);
}

double StepTimer::milliseconds() const {
  if (end_event_) {
    end_event_->synchronize();
    return begin_event_->elapsedTime(*end_event_);
  }
  return std::chrono::duration<double, std::milli>(end_ - begin_).count();
}

}  // namespace deepcache
