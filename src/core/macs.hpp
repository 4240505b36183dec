#pragma once

#include <functional>
#include <vector>

#include "core/torchscript.hpp"
#include "deepcache/unet.hpp"

namespace deepcache {

struct MacCount {
  Macs macs;
  std::vector<c10::IValue> outputs;  ///< of the graph, on the meta device: shapes and dtypes without data
  std::int64_t peak_bytes = 0;       ///< the most that its tensors take at a time, as MemoryMeter follows them
};

/// Counts the multiply-accumulates of one run for inputs of these shapes. Runs on the meta device, where nothing is
/// computed. For a graph with an operator that can't, what `runnable` makes is run on `device`, on zeros: the same
/// graph as it runs.
MacCount count_macs(const Graph& graph, const std::vector<c10::IValue>& inputs, const std::function<Graph()>& runnable,
                    torch::Device device);
MacCount count_macs(const Graph& graph, const std::vector<c10::IValue>& inputs);

/// Counts those of everything that the current thread runs while it lives.
class MacCounter {
 public:
  MacCounter();
  ~MacCounter();
  MacCounter(const MacCounter&) = delete;
  MacCounter& operator=(const MacCounter&) = delete;
  const Macs& macs() const { return macs_; }

 private:
  Macs macs_;
  std::uint64_t handle_;
};

}  // namespace deepcache
