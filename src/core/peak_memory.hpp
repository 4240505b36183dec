#pragma once

#include <ATen/core/ivalue.h>

#include <cstdint>
#include <memory>
#include <vector>

namespace deepcache {

/// Follows the tensors that the current thread's operators return, from when they are made until nothing needs them any
/// longer, while it lives. Works on the meta device, where tensors have sizes and no data. What an operator takes for
/// itself and gives back isn't seen; views count once, with what they are views of.
class MemoryMeter {
 public:
  /// @param inputs  of what will be run; they count for as long as they are held
  explicit MemoryMeter(const std::vector<c10::IValue>& inputs);
  ~MemoryMeter();
  MemoryMeter(const MemoryMeter&) = delete;
  MemoryMeter& operator=(const MemoryMeter&) = delete;

  /// The most that was held at a time, in bytes.
  std::int64_t peak_bytes() const;

  struct Held;

 private:
  std::unique_ptr<Held> held_;
  std::uint64_t handle_;
};

}  // namespace deepcache
