#pragma once

#include <ATen/core/ivalue.h>
#include <torch/types.h>

#include <functional>
#include <memory>

namespace deepcache {

/// What some work launched on a device, to be launched again at once: on the memory that it was recorded with.
class Recording {
 public:
  virtual ~Recording() = default;
  /// On the current stream; doesn't wait.
  virtual void replay() = 0;
  /// What the work returned. Each replay writes it anew, and replays of the recorder's other recordings may overwrite
  /// it.
  virtual const c10::IValue& output() const = 0;
};

class Recorder {
 public:
  /// Reads and writes tensors that outlive the recording, and returns what it made. May be called several times.
  using Work = std::function<c10::IValue()>;

  virtual ~Recorder() = default;
  /// The output holds what it should once the recording was replayed. What the work throws is thrown on.
  virtual std::unique_ptr<Recording> record(const Work& work) = 0;
};

/// Records CUDA graphs; recordings mustn't outlive it. One recorder serves one thread.
/// @throws std::invalid_argument unless this LibTorch has CUDA, and the device is one of it.
std::unique_ptr<Recorder> make_recorder(torch::Device device);

}  // namespace deepcache
