#include "core/graph_cut.hpp"

#include <torch/csrc/jit/ir/constants.h>
#include <torch/csrc/jit/passes/dead_code_elimination.h>
#include <torch/csrc/jit/passes/lower_tuples.h>

#include <algorithm>
#include <unordered_set>

#include "core/conditioning.hpp"
#include "error.hpp"

namespace deepcache {
namespace jit = torch::jit;
namespace {

bool is_concatenation_of_two(const jit::Node& node) {
  if (node.kind() != c10::aten::cat) return false;
  const auto* list = node.input(0)->node();
  const auto dim = jit::toIValue(node.input(1));
  return list->kind() == c10::prim::ListConstruct && list->inputs().size() == 2 && dim && dim->toInt() == 1;
}

bool has_concatenation_of_two(const jit::Block& block) {
  return std::any_of(block.nodes().begin(), block.nodes().end(), [](const jit::Node* node) {
    return is_concatenation_of_two(*node) ||
           std::any_of(node->blocks().begin(), node->blocks().end(),
                       [](const auto* inner) { return has_concatenation_of_two(*inner); });
  });
}

bool is_computed_from(const jit::Value* value, const jit::Value* source) {
  std::vector<const jit::Node*> open{value->node()};
  std::unordered_set<const jit::Node*> seen;
  while (!open.empty()) {
    const auto* node = open.back();
    open.pop_back();
    if (!seen.insert(node).second) continue;
    for (const auto* input : node->inputs()) {
      if (input == source) return true;
      open.push_back(input->node());
    }
    for (const auto* inner : node->blocks())
      for (const auto* inner_node : inner->nodes()) open.push_back(inner_node);
  }
  return false;
}

/// What comes from the deep layers.
jit::Value* feature(const jit::Node& concatenation) {
  return concatenation.input(0)->node()->input(deep_operand(concatenation));
}

jit::Value* feature(const Graph& graph, std::int64_t cache_branch_id) {
  const auto places = skip_concatenations(graph);
  return feature(*places.at(places.size() - 1 - static_cast<std::size_t>(cache_branch_id)));
}

}  // namespace

std::vector<jit::Node*> skip_concatenations(const Graph& graph) {
  const auto unchanging = unchanging_values(*graph);
  const auto is_skip = [&](const jit::Node& node) {
    return is_concatenation_of_two(node) &&
           std::ranges::none_of(node.input(0)->node()->inputs(),
                                [&](const jit::Value* operand) { return unchanging.contains(operand); });
  };
  std::vector<jit::Node*> places;
  for (auto* node : graph->nodes()) {
    if (is_skip(*node)) places.push_back(node);
    for (const auto* inner : node->blocks())
      check_argument(!has_concatenation_of_two(*inner),
                     "a skip concatenation sits inside control flow, as in a scripted module: export the UNet with "
                     "torch.jit.trace instead of torch.jit.script");
  }
  check_argument(!places.empty(),
                 "the network has no skip concatenation (cat along dimension 1 of two tensors computed from its first "
                 "two inputs), so there is nothing to cache: is it a UNet?");
  return places;
}

std::size_t deep_operand(const jit::Node& concatenation) {
  const auto* operands = concatenation.input(0)->node();
  return is_computed_from(operands->input(1), operands->input(0)) ? 1 : 0;
}

GraphCut cut(const Graph& graph, std::int64_t cache_branch_id) {
  GraphCut result{graph->copy(), shallow_graph(graph, cache_branch_id)};
  result.full->registerOutput(feature(result.full, cache_branch_id));
  return result;
}

Graph shallow_graph(const Graph& graph, std::int64_t cache_branch_id) {
  auto shallow = graph->copy();
  auto* computed = feature(shallow, cache_branch_id);
  auto* cached = shallow->addInput("cached_feature");
  cached->setType(computed->type());
  computed->replaceAllUsesWith(cached);
  jit::LowerSimpleTuples(shallow);
  jit::EliminateDeadCode(shallow);
  return shallow;
}

Graph with_features(const Graph& graph) {
  auto result = graph->copy();
  auto places = skip_concatenations(result);
  std::ranges::reverse(places);
  for (const auto* place : places) result->registerOutput(feature(*place));
  return result;
}

std::vector<std::string> skip_concatenation_names(const Graph& graph) {
  std::vector<std::string> names;
  for (const auto* node : skip_concatenations(graph)) names.push_back(node->scopeName());
  std::ranges::reverse(names);
  return names;
}

}  // namespace deepcache
