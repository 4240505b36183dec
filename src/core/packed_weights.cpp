#include "core/packed_weights.hpp"

#include <torch/csrc/jit/ir/constants.h>

#include <algorithm>
#include <vector>

#include "core/fuse_operators.hpp"
#include "cpu/operators.hpp"
#include "cpu/packed_layers.hpp"

namespace deepcache {
namespace jit = torch::jit;
namespace {

using Sizes = std::vector<std::int64_t>;
constexpr auto kContiguous = static_cast<std::int64_t>(torch::MemoryFormat::Contiguous);

/// Whether a convolution's arguments are those that packed ones can have: constant, without groups and dilation.
bool is_plain(const jit::Node& convolution) {
  for (const std::size_t input : {3, 4, 5, 6, 8})
    if (!jit::toIValue(convolution.input(input))) return false;
  const auto argument = [&](std::size_t input) { return jit::toIValue(convolution.input(input)).value(); };
  return argument(3).toIntVector().size() == 2 && argument(4).toIntVector().size() == 2 &&
         argument(5).toIntVector() == Sizes{1, 1} && !argument(6).toBool() && argument(8).toInt() == 1;
}

/// The weight of a layer that can be packed; undefined if it isn't one.
torch::Tensor weight_to_pack(const jit::Node& node) {
  const bool linear = node.kind() == c10::aten::linear;
  if (!linear && (node.kind() != c10::aten::_convolution || !is_plain(node))) return {};
  const auto weight = constant_tensor(node.input(1));
  return weight.defined() && weight.dim() == (linear ? 2 : 4) && cpu::can_pack(weight) ? weight : torch::Tensor();
}

/// Whether a layer is a 3x3 convolution that alone reads what nearest-neighbour upsampling, perhaps by 2, gives.
bool upsamples_first(const jit::Node& layer, const torch::Tensor& weight) {
  const auto* node = layer.input(0)->node();
  if (node->kind() != c10::aten::upsample_nearest2d || node->output()->uses().size() != 1) return false;
  if (weight.dim() != 4 || weight.sizes().slice(2) != torch::IntArrayRef{3, 3}) return false;
  for (const std::size_t argument : {3, 4})  // stride and padding
    if (jit::toIValue(layer.input(argument))->toIntVector() != Sizes{1, 1}) return false;
  // One factor for each direction, or a list of both. Where there are none, the size says what is to be done.
  return std::ranges::all_of(node->inputs().slice(2), [](const jit::Value* value) {
    const auto factor = jit::toIValue(value);
    return factor && (factor->isNone() || *factor == c10::IValue(2.0) || *factor == c10::IValue(std::vector{2.0, 2.0}));
  });
}

/// The value before it was copied into another layout, which no layer minds.
jit::Value* layout_free(jit::Value* value) {
  const auto* node = value->node();
  if (node->kind() != c10::aten::contiguous) return value;
  const auto format = jit::toIValue(node->input(1));
  return format && format->isInt() && format->toInt() == kContiguous ? node->input(0) : value;
}

/// Puts a packed layer in the place of `node`, whose weight is on the meta device.
void replace(jit::Node& node, const torch::Tensor& packed, bool upsamples) {
  auto& graph = *node.owningGraph();
  const jit::WithInsertPoint guard(&node);
  const auto shape = constant_tensor(node.input(1)).sizes();
  auto* const before = node.input(0)->node();
  TORCH_INTERNAL_ASSERT(!upsamples || before->kind() == c10::aten::upsample_nearest2d);
  std::vector<jit::Value*> inputs{layout_free(upsamples ? before->input(0) : node.input(0)),
                                  graph.insertConstant(packed), node.input(2), graph.insertConstant(shape[0])};
  const char* kind = "deepcache::upsample_convolution";
  if (upsamples) {
    inputs.push_back(before->input(1));
  } else {
    const bool linear = node.kind() == c10::aten::linear;
    kind = linear ? "deepcache::linear" : "deepcache::convolution";
    if (!linear)
      inputs.insert(inputs.end(), {graph.insertConstant(shape.slice(2).vec()), node.input(3), node.input(4)});
    inputs.push_back(graph.insertConstant(c10::IValue()));  // nothing is added to the result
  }
  replace_by(node, kind, inputs);
  node.destroy();
}

}  // namespace

void PackedWeights::pack(jit::Block& block) {
  for (auto it = block.nodes().begin(); it != block.nodes().end();) {
    auto* node = *it++;
    for (auto* inner : node->blocks()) pack(*inner);
    const auto weight = weight_to_pack(*node);
    if (!weight.defined()) continue;
    auto* constant = node->input(1);
    const auto shape = torch::empty_like(weight, torch::kMeta);
    const bool upsamples = upsamples_first(*node, weight);
    const auto packed = cpu::pack_weight(weight, upsamples);
    weights_.emplace(shape.unsafeGetTensorImpl(), Weight{shape, packed, upsamples});
    const jit::WithInsertPoint guard(constant->node());
    // A weight of several layers stays, and is packed for each.
    node->replaceInput(1, block.owningGraph()->insertConstant(shape));
    if (!constant->hasUses()) constant->node()->destroy();
  }
}

Graph PackedWeights::pack(Graph graph) {
  if (!writes_in_place(*graph->block())) pack(*graph->block());
  return graph;
}

void PackedWeights::use(jit::Block& block) const {
  for (auto it = block.nodes().begin(); it != block.nodes().end();) {
    auto* node = *it++;
    for (auto* inner : node->blocks()) use(*inner);
    if (node->kind() != c10::aten::_convolution && node->kind() != c10::aten::linear) continue;
    const auto weight = constant_tensor(node->input(1));
    const auto found = weights_.find(weight.defined() ? weight.unsafeGetTensorImpl() : nullptr);
    if (found != weights_.end()) replace(*node, found->second.packed, found->second.upsamples);
  }
}

Graph PackedWeights::runnable(const Graph& graph) const {
  auto result = graph->copy();
  if (weights_.empty()) return result;
  cpu::register_operators();
  use(*result->block());
  return writes_in_place(*result->block()) ? result : fuse_operators(result);  // a ControlNet may, beside a UNet
}

}  // namespace deepcache
