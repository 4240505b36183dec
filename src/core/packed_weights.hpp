#pragma once

#include <unordered_map>

#include "core/torchscript.hpp"

namespace deepcache {

/// Weights of convolutions and linear layers in the order in which src/cpu multiplies with them, and the operators of
/// src/cpu around them. Where there are no kernels for them (cpu::has_kernels), and where something in a graph writes
/// in place, it stays what it is. Results differ from those on unpacked weights by rounding alone.
class PackedWeights {
 public:
  /// Packs the weights in `graph`, and leaves of each its shape there: a tensor on the meta device. So its memory is
  /// free as soon as it is packed, unless someone else holds it. Changes the graph, and returns it.
  Graph pack(Graph graph);

  /// A copy of such a graph, or of a part of one, that runs on the packed weights.
  Graph runnable(const Graph& graph) const;

 private:
  struct Weight {
    torch::Tensor shape, packed;
    bool upsamples;  // the layer's input first
  };
  void pack(torch::jit::Block& block);
  void use(torch::jit::Block& block) const;
  std::unordered_map<const c10::TensorImpl*, Weight> weights_;  // by the shape's tensor, which it keeps alive
};

}  // namespace deepcache
