#pragma once

#include <optional>

#include "core/torchscript.hpp"

namespace deepcache {

/// The dtype that a network was traced in, that of its first layer's weights; nothing if it has no layer.
std::optional<torch::Dtype> traced_dtype(const Graph& graph);

/// Has the layers of a network compute in another dtype than it was traced in: their weights are converted, and what
/// they read is. What comes before any layer stays, such as the timestep and its sinusoids, which are too fine for half
/// types; so do casts to float32 where the network was traced in a half type. Outputs may be in either dtype. Changes
/// the graph, and returns it.
Graph cast_graph(Graph graph, torch::Dtype dtype);

}  // namespace deepcache
