#pragma once

#include <memory>
#include <span>
#include <vector>

#include "core/backend.hpp"
#include "core/recorder.hpp"

namespace deepcache {

/// What a helper puts between a UNet and its callers.
class UNetHook {
 public:
  virtual ~UNetHook() = default;
  virtual c10::IValue forward(std::vector<c10::IValue> inputs) = 0;
  virtual void begin_run(std::span<const double> timesteps, const RunTraits& traits) = 0;
};

/// @throws std::invalid_argument unless it is one that networks compute in.
void check_compute_dtype(std::optional<torch::Dtype> dtype);

struct UNet::Impl {
  std::shared_ptr<const Backend> backend;
  std::shared_ptr<Recorder> recorder = nullptr;  // of the helper's steps; null: they aren't recorded
  UNetHook* hook = nullptr;                      // of the enabled helper, which keeps this alive and clears it

  /// Of another network, whose steps are recorded where this one's are.
  std::shared_ptr<Impl> with(std::shared_ptr<const Backend> other) const;
};

}  // namespace deepcache
