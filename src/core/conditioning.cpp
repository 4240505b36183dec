#include "core/conditioning.hpp"

#include <torch/csrc/jit/passes/dead_code_elimination.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <unordered_set>

namespace deepcache {
namespace jit = torch::jit;
namespace {

constexpr std::size_t kChangingInputs = 2;

bool has_tensors_only(const jit::Node& node) {
  return std::ranges::all_of(
      node.outputs(), [](const jit::Value* output) { return output->type()->isSubtypeOf(*c10::TensorType::get()); });
}

/// The position of a node's output.
struct Place {
  std::size_t node, output;
};

/// The tensors at which to split: unchanging, and read by what changes. Lists and numbers are made of them anew.
std::vector<Place> find_places(jit::Graph& graph) {
  const auto unchanging = unchanging_values(graph);
  const auto kept = [&](const jit::Node* node) {
    return !node->outputs().empty() && unchanging.contains(node->outputs()[0]) && node->kind() != c10::prim::Constant &&
           has_tensors_only(*node);
  };
  std::vector<Place> places;
  std::size_t position = 0;
  for (auto* node : graph.nodes()) {
    for (std::size_t i = 0; kept(node) && i < node->outputs().size(); ++i)
      if (std::ranges::any_of(node->output(i)->uses(), [&](const jit::Use& use) { return !kept(use.user); }))
        places.push_back({position, i});
    ++position;
  }
  return places;
}

std::vector<jit::Value*> values_at(const std::vector<Place>& places, jit::Graph& graph) {
  const std::vector<jit::Node*> nodes(graph.nodes().begin(), graph.nodes().end());
  std::vector<jit::Value*> values;
  for (const auto& place : places) values.push_back(nodes[place.node]->output(place.output));
  return values;
}

}  // namespace

std::unordered_set<const jit::Value*> unchanging_values(const jit::Graph& graph) {
  std::unordered_set<const jit::Value*> values;
  for (std::size_t i = kChangingInputs; i < graph.inputs().size(); ++i) values.insert(graph.inputs()[i]);
  for (const auto* node : graph.nodes()) {
    const bool unchanging =
        node->blocks().empty() && !node->hasSideEffects() && !node->isNondeterministic() &&
        std::ranges::all_of(node->inputs(), [&](const jit::Value* input) { return values.contains(input); });
    if (unchanging) values.insert(node->outputs().begin(), node->outputs().end());
  }
  return values;
}

ConditioningSplit split_conditioning(const Graph& graph) {
  const auto places = writes_in_place(*graph->block()) ? std::vector<Place>() : find_places(*graph);
  if (places.empty()) return {std::make_shared<jit::Graph>(), {}, graph->copy()};
  ConditioningSplit split{graph->copy(), {}, graph->copy()};
  for (auto* value : values_at(places, *split.step)) {
    auto* const input = split.step->addInput();
    input->setType(value->type());
    value->replaceAllUsesWith(input);
  }
  jit::EliminateDeadCode(split.step);

  auto& conditioning = *split.conditioning;
  const auto values = values_at(places, conditioning);
  while (!conditioning.outputs().empty()) conditioning.eraseOutput(0);
  for (auto* value : values) conditioning.registerOutput(value);
  jit::EliminateDeadCode(split.conditioning);
  for (std::size_t i = conditioning.inputs().size(); i-- > 0;) {
    if (conditioning.inputs()[i]->hasUses())
      split.inputs.insert(split.inputs.begin(), i);
    else
      conditioning.eraseInput(i);
  }
  return split;
}

std::vector<c10::IValue> ConditioningSplit::unchanging(const std::vector<c10::IValue>& graph_inputs) const {
  std::vector<c10::IValue> values;
  for (const auto position : inputs) values.push_back(graph_inputs.at(position));
  return values;
}

bool is_same(const c10::IValue& a, const c10::IValue& b) {
  return alike(a, b, [](const torch::Tensor& left, const torch::Tensor& right) {
    return left.is_cpu() && right.is_cpu() && left.scalar_type() == right.scalar_type() &&
           left.sizes() == right.sizes() &&
           (left.numel() == 0 ||
            std::memcmp(left.contiguous().const_data_ptr(), right.contiguous().const_data_ptr(), left.nbytes()) == 0);
  });
}

}  // namespace deepcache
