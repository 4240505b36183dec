#include "operator_profile.hpp"

#include <ATen/record_function.h>

#include <algorithm>
#include <chrono>
#include <map>
#include <memory>

#include "core/macs.hpp"

namespace deepcache::bench {
namespace {

using Clock = std::chrono::steady_clock;

struct Profile {
  const MacCounter* counter = nullptr;
  std::map<std::string, OperatorTime> operators;
  std::string running;  // an operator; those that it calls are its own
  Clock::time_point start;
  std::int64_t macs_before = 0;
};

thread_local Profile* profiled = nullptr;  // callbacks can't hold state

struct Outermost : at::ObserverContext {};

double milliseconds_since(Clock::time_point start) {
  return std::chrono::duration<double, std::milli>(Clock::now() - start).count();
}

std::unique_ptr<at::ObserverContext> on_start(const at::RecordFunction& function) {
  if (profiled == nullptr || !profiled->running.empty()) return nullptr;
  profiled->running = function.name();
  profiled->macs_before = profiled->counter->macs().total();
  profiled->start = Clock::now();
  return std::make_unique<Outermost>();
}

void on_end(const at::RecordFunction&, at::ObserverContext* context) {
  if (profiled == nullptr || context == nullptr) return;
  auto& entry = profiled->operators[profiled->running];
  entry.milliseconds += milliseconds_since(profiled->start);
  entry.macs += profiled->counter->macs().total() - profiled->macs_before;
  ++entry.calls;
  profiled->running.clear();
}

/// Fills a profile while it lives.
class Recording {
 public:
  explicit Recording(Profile& profile)
      : handle_(at::addThreadLocalCallback(
            at::RecordFunctionCallback(on_start, on_end).scopes({at::RecordScope::FUNCTION}))) {
    profiled = &profile;
  }
  ~Recording() {
    profiled = nullptr;
    at::removeCallback(handle_);
  }
  Recording(const Recording&) = delete;
  Recording& operator=(const Recording&) = delete;

 private:
  at::CallbackHandle handle_;
};

}  // namespace

std::vector<OperatorTime> profile_operators(const std::function<void()>& step, int times) {
  const MacCounter counter;  // first, so that it has counted an operator when that ends here
  Profile profile{.counter = &counter, .operators = {}, .running = {}, .start = {}};
  double between = 0;
  {
    const Recording recording(profile);
    const auto start = Clock::now();
    for (int i = 0; i < times; ++i) step();
    between = milliseconds_since(start);
  }
  std::vector<OperatorTime> operators;
  for (const auto& [name, entry] : profile.operators) {
    between -= entry.milliseconds;
    operators.push_back({name, entry.calls / times, entry.milliseconds / times, entry.macs / times});
  }
  std::ranges::sort(operators, std::greater(), &OperatorTime::milliseconds);
  operators.push_back({.name = "between operators", .milliseconds = between / times});
  return operators;
}

}  // namespace deepcache::bench
