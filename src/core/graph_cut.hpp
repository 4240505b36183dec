#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "core/torchscript.hpp"

namespace deepcache {

/// A UNet's graph, cut at one skip concatenation. The two share their weights.
struct GraphCut {
  Graph full;     ///< the graph, with one more output: the feature, the concatenation's deep operand
  Graph shallow;  ///< the graph with the feature as one more input, and without what only computed it
};

/// The skip concatenations of a traced UNet in the order of execution: `aten::cat` along dimension 1 of two tensors
/// that change from step to step (`unchanging_values`): not of what the network is told besides.
/// @throws std::invalid_argument if there is none, or if one sits inside control flow.
std::vector<torch::jit::Node*> skip_concatenations(const Graph& graph);

/// Which operand of a skip concatenation comes from the deep layers: the first one, but where the second is computed
/// from it, that.
std::size_t deep_operand(const torch::jit::Node& concatenation);

/// Cuts a graph, which isn't changed, at the concatenation `cache_branch_id`, counted back from the output.
GraphCut cut(const Graph& graph, std::int64_t cache_branch_id);

/// What `cut` gives as `shallow`.
Graph shallow_graph(const Graph& graph, std::int64_t cache_branch_id);

/// The graph with all features as further outputs, by cache_branch_id.
Graph with_features(const Graph& graph);

/// For each skip concatenation, by cache_branch_id, the path of the submodule that reads it; empty where the module
/// hierarchy was gone already.
std::vector<std::string> skip_concatenation_names(const Graph& graph);

}  // namespace deepcache
