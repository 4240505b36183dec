#pragma once

#include <cstddef>
#include <unordered_set>
#include <vector>

#include "core/torchscript.hpp"

namespace deepcache {

/// A graph in two. Its first two inputs, the sample and the timestep, change from step to step; the others, such as
/// text embeddings and control images, stay the same in a run.
struct ConditioningSplit {
  Graph conditioning;               ///< of what stays the same; returns tensors
  std::vector<std::size_t> inputs;  ///< which of the graph's inputs that takes
  Graph step;                       ///< the rest: takes the graph's inputs, then those tensors

  /// Of the graph's inputs, those.
  std::vector<c10::IValue> unchanging(const std::vector<c10::IValue>& graph_inputs) const;
};

/// What stays the same in a run: those other inputs, and what is computed, directly or not, of them and of constants
/// alone.
std::unordered_set<const torch::jit::Value*> unchanging_values(const torch::jit::Graph& graph);

/// Splits a graph, which isn't changed. One that writes in place is left whole.
ConditioningSplit split_conditioning(const Graph& graph);

/// What is kept of one step for the next: the inputs' values and what was computed of them.
struct Conditioning {
  std::vector<c10::IValue> inputs, values;
};

/// Whether two inputs are alike bit by bit. Not known without waiting for the device, and so false, of tensors that are
/// not on the CPU.
bool is_same(const c10::IValue& a, const c10::IValue& b);

}  // namespace deepcache
