#include "core/cast_graph.hpp"

#include <torch/csrc/jit/ir/constants.h>
#include <torch/csrc/jit/passes/dead_code_elimination.h>

#include <algorithm>
#include <map>
#include <unordered_map>
#include <unordered_set>
#include <vector>

namespace deepcache {
namespace jit = torch::jit;
namespace {

/// Where layers have their data, and then their weights, among their inputs.
const std::map<c10::Symbol, std::vector<std::size_t>>& layers() {
  static const std::map<c10::Symbol, std::vector<std::size_t>> inputs{
      {c10::aten::linear, {0, 1, 2}},     {c10::aten::_convolution, {0, 1, 2}},
      {c10::aten::conv1d, {0, 1, 2}},     {c10::aten::conv2d, {0, 1, 2}},
      {c10::aten::conv3d, {0, 1, 2}},     {c10::aten::group_norm, {0, 2, 3}},
      {c10::aten::layer_norm, {0, 2, 3}}, {c10::aten::matmul, {0, 1}},
      {c10::aten::addmm, {1, 2, 0}},      {c10::Symbol::fromQualString("aten::_convolution_mode"), {0, 1, 2}},
  };
  return inputs;
}

/// Where a layer has these; nothing if the node isn't one, such as a product of two things that were computed.
const std::vector<std::size_t>* layer_inputs(const jit::Node& node) {
  const auto found = layers().find(node.kind());
  return found != layers().end() && constant_tensor(node.input(found->second[1])).defined() ? &found->second : nullptr;
}

/// What makes a tensor of a given dtype, such as that which attention's scores are added to.
bool is_factory(const jit::Node& node) {
  return node.kind() == c10::aten::empty || node.kind() == c10::aten::zeros || node.kind() == c10::aten::ones ||
         node.kind() == c10::aten::full;
}

bool is_elementwise(const jit::Node& node) {
  return node.kind() == c10::aten::add || node.kind() == c10::aten::mul || node.kind() == c10::aten::sub ||
         node.kind() == c10::aten::div;
}

/// Whether a node only moves or repeats numbers for one reader: they are cast before it, so that it stays next to that.
bool moves_numbers(const jit::Node& node) {
  return (node.kind() == c10::aten::contiguous || node.kind() == c10::aten::upsample_nearest2d) &&
         node.output()->uses().size() == 1;
}

class Cast {
 public:
  Cast(torch::Dtype from, torch::Dtype to) : from_(from), to_(to) {}

  void run(jit::Block& block) {
    for (auto* node : block.nodes()) {
      for (auto* inner : node->blocks()) run(*inner);
      const auto* layer = layer_inputs(*node);
      if (layer != nullptr) cast_layer(*node, *layer);
      if (layer == nullptr &&
          std::ranges::none_of(node->inputs(), [&](auto* input) { return computed_.contains(input); }))
        continue;
      for (const auto* output : node->outputs()) computed_.insert(output);
      if (is_elementwise(*node))
        for (std::size_t i = 0; i < 2; ++i) cast_constant(*node, i);
      if (node->kind() == c10::aten::to || is_factory(*node)) cast_to(*node);
    }
  }

 private:
  void cast_layer(jit::Node& node, const std::vector<std::size_t>& inputs) {
    for (std::size_t i = 1; i < inputs.size(); ++i) cast_constant(node, inputs[i]);
    auto* reader = &node;
    auto input = inputs[0];
    for (; moves_numbers(*reader->input(input)->node()); input = 0) reader = reader->input(input)->node();
    const jit::WithInsertPoint guard(reader);
    reader->replaceInput(input, node.owningGraph()->insert(c10::aten::to, {reader->input(input), to_}));
  }

  void cast_constant(jit::Node& node, std::size_t input) {
    auto* before = node.input(input);
    const auto tensor = constant_tensor(before);
    if (!tensor.defined() || tensor.dim() == 0 || tensor.scalar_type() != from_) return;
    auto& cast = cast_[before];
    if (cast == nullptr) {
      const jit::WithInsertPoint guard(before->node());
      cast = node.owningGraph()->insertConstant(tensor.to(to_));
    }
    node.replaceInput(input, cast);
    if (before->hasUses()) return;
    cast_.erase(before);
    before->node()->destroy();  // frees it, unless somebody else holds it
  }

  /// What was cast to the dtype that the network computed in.
  void cast_to(jit::Node& node) {
    for (std::size_t i = 1; i < node.inputs().size(); ++i) {
      const auto value = jit::toIValue(node.input(i));
      if (!value || !value->isInt() || value->toInt() != static_cast<std::int64_t>(from_)) continue;
      const jit::WithInsertPoint guard(&node);
      node.replaceInput(i, node.owningGraph()->insertConstant(static_cast<std::int64_t>(to_)));
      return;
    }
  }

  torch::Dtype from_, to_;
  std::unordered_set<const jit::Value*> computed_;           // by layers, or of what they computed
  std::unordered_map<const jit::Value*, jit::Value*> cast_;  // weights that several layers have
};

}  // namespace

std::optional<torch::Dtype> traced_dtype(const Graph& graph) {
  for (const auto* node : graph->nodes())
    if (const auto* layer = layer_inputs(*node)) return constant_tensor(node->input((*layer)[1])).scalar_type();
  return std::nullopt;
}

Graph cast_graph(Graph graph, torch::Dtype dtype) {
  const auto from = traced_dtype(graph);
  if (!from || *from == dtype) return graph;
  Cast(*from, dtype).run(*graph->block());
  jit::EliminateDeadCode(graph);
  return graph;
}

}  // namespace deepcache
