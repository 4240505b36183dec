#include "core/packed_weights.hpp"

#include <ATen/core/dispatch/Dispatcher.h>
#include <torch/csrc/jit/ir/constants.h>
#include <torch/csrc/jit/passes/dead_code_elimination.h>

#include <algorithm>
#include <array>
#include <optional>
#include <vector>

#include "core/fuse_operators.hpp"
#include "cpu/operators.hpp"

namespace deepcache {
namespace jit = torch::jit;
namespace {

using Sizes = std::vector<std::int64_t>;
constexpr auto kContiguous = static_cast<std::int64_t>(torch::MemoryFormat::Contiguous);
constexpr auto kChannelsLast = static_cast<std::int64_t>(torch::MemoryFormat::ChannelsLast);

/// LibTorch's own operators on packed weights, which torch.compile uses; not in every build of it.
constexpr std::array kOperators{"mkldnn::_convolution_pointwise", "mkldnn::_linear_pointwise",
                                "mkldnn::_reorder_convolution_weight", "mkldnn::_reorder_linear_weight"};

bool can_pack(torch::Dtype dtype) {
  static const bool has_operators = std::ranges::all_of(kOperators, [](const char* name) {
    return c10::Dispatcher::singleton().findSchema({name, ""}).has_value();
  });
  return has_operators && cpu::has_kernels(dtype);
}

torch::Tensor call(const char* name, std::vector<c10::IValue> stack) {
  c10::Dispatcher::singleton().findSchemaOrThrow(name, "").callBoxed(stack);
  return stack.at(0).toTensor();
}

torch::Tensor tensor_of(const jit::Value* value) {
  const auto constant = jit::toIValue(value);
  return constant && constant->isTensor() ? constant->toTensor() : torch::Tensor();
}

/// Whether an operator writes into one of its inputs, which other values may share memory with.
bool writes_in_place(const jit::Block& block) {
  for (const auto* node : block.nodes()) {
    const auto* schema = node->maybeSchema();
    if (schema != nullptr && schema->is_mutable()) return true;
    for (const auto* inner : node->blocks())
      if (writes_in_place(*inner)) return true;
  }
  return false;
}

/// Arguments of aten::_convolution, where all of them are constants.
struct Convolution {
  Sizes stride, padding, dilation;
  bool transposed = false;
  std::int64_t groups = 1;

  static std::optional<Convolution> of(const jit::Node& node) {
    for (const std::size_t input : {3, 4, 5, 6, 8})
      if (!jit::toIValue(node.input(input))) return std::nullopt;
    const auto sizes = [&](std::size_t input) { return jit::toIValue(node.input(input))->toIntVector(); };
    return Convolution{.stride = sizes(3),
                       .padding = sizes(4),
                       .dilation = sizes(5),
                       .transposed = jit::toIValue(node.input(6))->toBool(),
                       .groups = jit::toIValue(node.input(8))->toInt()};
  }

  /// A linear layer over the channels. As a convolution, oneDNN may take several times as long as for one of 3x3.
  bool is_linear(const torch::Tensor& weight) const {
    return weight.size(2) == 1 && weight.size(3) == 1 && stride == Sizes{1, 1} && padding == Sizes{0, 0} && groups == 1;
  }
};

/// The packed weight of a layer; undefined if it isn't one that can be packed.
torch::Tensor packed_weight(const jit::Node& node) {
  const auto convolution = node.kind() == c10::aten::_convolution ? Convolution::of(node) : std::nullopt;
  if (!convolution && node.kind() != c10::aten::linear) return {};
  const auto weight = tensor_of(node.input(1));
  if (!weight.defined() || !weight.is_cpu() || weight.numel() == 0 || weight.dim() != (convolution ? 4 : 2) ||
      !can_pack(weight.scalar_type()))
    return {};
  if (!convolution || convolution->is_linear(weight))
    return call("mkldnn::_reorder_linear_weight", {weight.flatten(1).contiguous(), c10::IValue()});
  if (convolution->transposed || convolution->padding.size() != 2) return {};
  return call("mkldnn::_reorder_convolution_weight", {weight, convolution->padding, convolution->stride,
                                                      convolution->dilation, convolution->groups, c10::IValue()});
}

/// Makes what runs in the place of a layer, before it.
class Insertion {
 public:
  explicit Insertion(jit::Node& node) : graph_(*node.owningGraph()), node_(node), insert_before_(&node) {}

  jit::Value* layer(const torch::Tensor& packed) {
    if (node_.kind() == c10::aten::linear) return linear(node_.input(0), packed);
    const auto convolution = Convolution::of(node_).value();
    auto* picture = insert("aten::contiguous", {layout_free(node_.input(0)), constant(kChannelsLast)});
    if (convolution.is_linear(tensor_of(node_.input(1)))) {
      auto* pixels = insert("aten::permute", {picture, constant(Sizes{0, 2, 3, 1})});
      return insert("aten::permute", {linear(pixels, packed), constant(Sizes{0, 3, 1, 2})});
    }
    return insert(
        "mkldnn::_convolution_pointwise",
        {picture, weight(packed), node_.input(2), constant(convolution.padding), constant(convolution.stride),
         constant(convolution.dilation), constant(convolution.groups), constant("none"), no_scalars(), constant("")});
  }

 private:
  jit::Value* linear(jit::Value* input, const torch::Tensor& packed) {
    return insert("mkldnn::_linear_pointwise",
                  {input, weight(packed), node_.input(2), constant("none"), no_scalars(), constant("")});
  }

  /// The value before it was copied into another layout.
  static jit::Value* layout_free(jit::Value* value) {
    const auto* node = value->node();
    if (node->kind() != c10::aten::contiguous) return value;
    const auto format = jit::toIValue(node->input(1));
    return format && format->isInt() && format->toInt() == kContiguous ? node->input(0) : value;
  }

  jit::Value* insert(const char* kind, const std::vector<jit::Value*>& inputs) {
    auto* node = graph_.insertNode(graph_.create(c10::Symbol::fromQualString(kind), inputs));
    node->setScope(node_.scope());
    return node->output();
  }

  jit::Value* constant(const c10::IValue& value) { return graph_.insertConstant(value); }

  /// The JIT's usual constants must have a storage, which packed tensors don't.
  jit::Value* weight(const torch::Tensor& packed) {
    auto* node = graph_.create(c10::Symbol::fromQualString("prim::ConstantMKLDNNTensor"));
    return graph_.insertNode(node)->t_(c10::attr::value, packed)->output();
  }

  jit::Value* no_scalars() {
    return graph_.insertNode(graph_.createList(c10::OptionalType::create(c10::NumberType::get()), {}))->output();
  }

  jit::Graph& graph_;
  jit::Node& node_;
  jit::WithInsertPoint insert_before_;
};

}  // namespace

void PackedWeights::pack(jit::Block& block) {
  for (auto it = block.nodes().begin(); it != block.nodes().end();) {
    auto* node = *it++;
    for (auto* inner : node->blocks()) pack(*inner);
    const auto packed = packed_weight(*node);
    if (!packed.defined()) continue;
    auto* weight = node->input(1);
    const auto shape = torch::empty_like(tensor_of(weight), torch::kMeta);
    weights_.emplace(shape.unsafeGetTensorImpl(), Weight{shape, packed});
    const jit::WithInsertPoint guard(weight->node());
    // A weight of several layers stays, and is packed for each: it may be another kind of layer.
    node->replaceInput(1, block.owningGraph()->insertConstant(shape));
    if (!weight->hasUses()) weight->node()->destroy();
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
    const auto weight = tensor_of(node->input(1));
    const auto found = weights_.find(weight.defined() ? weight.unsafeGetTensorImpl() : nullptr);
    if (found == weights_.end()) continue;
    auto* output = Insertion(*node).layer(found->second.packed);
    output->setType(node->output()->type());
    node->output()->replaceAllUsesWith(output);
    node->destroy();
  }
}

Graph PackedWeights::runnable(const Graph& graph) const {
  auto result = graph->copy();
  if (weights_.empty()) return result;
  use(*result->block());
  return fuse_operators(result);
}

}  // namespace deepcache
