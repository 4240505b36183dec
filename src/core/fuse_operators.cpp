#include "core/fuse_operators.hpp"

#include <torch/csrc/jit/ir/constants.h>
#include <torch/csrc/jit/passes/dead_code_elimination.h>

#include "cpu/operators.hpp"

namespace deepcache {
namespace jit = torch::jit;
namespace {

const auto kLinear = c10::Symbol::fromQualString("deepcache::linear");
const auto kConvolution = c10::Symbol::fromQualString("deepcache::convolution");

/// Makes nodes before a given one, in its scope.
class Builder {
 public:
  explicit Builder(jit::Node& place) : graph_(*place.owningGraph()), place_(place), guard_(&place) {}

  jit::Value* constant(const c10::IValue& value) { return graph_.insertConstant(value); }

  /// Puts the result of an operator in the place of that of `place`, which does nothing any more.
  void replace_by(const char* kind, const std::vector<jit::Value*>& inputs) {
    deepcache::replace_by(place_, kind, inputs);
  }

 private:
  jit::Graph& graph_;
  jit::Node& place_;
  jit::WithInsertPoint guard_;
};

/// Of a tensor as tracing makes of numbers.
bool is_number(const torch::Tensor& tensor, double expected) {
  return tensor.defined() && tensor.dim() == 0 && tensor.is_cpu() && tensor.item<double>() == expected;
}

bool is_constant(const jit::Value* value, const auto& expected) {
  const auto constant = jit::toIValue(value);
  if (!constant) return false;
  if constexpr (std::is_same_v<std::decay_t<decltype(expected)>, double>) {
    if (constant->isTensor()) return is_number(constant->toTensor(), expected);
    return constant->isScalar() && constant->toScalar().toDouble() == expected;
  } else {
    return *constant == c10::IValue(expected);
  }
}

/// Whether a value is known to be what a layer computed, or the sum of such a one and another; integers would become
/// floating-point numbers by a division.
bool is_floating_point(const jit::Value* value) {
  const auto& node = *value->node();
  const auto kind = node.kind();
  if (kind == kLinear || kind == kConvolution || kind == c10::aten::linear || kind == c10::aten::_convolution)
    return true;
  if (kind == c10::aten::add) return is_floating_point(node.input(1)) || is_floating_point(node.input(0));
  const bool keeps = kind == c10::aten::dropout || kind == c10::aten::reshape || kind == c10::aten::transpose ||
                     kind == c10::aten::contiguous || kind == c10::aten::div;
  return keeps && is_floating_point(node.input(0));
}

/// Group norm, and the SiLU of it if nothing else reads it.
void fuse_group_norm(jit::Node& norm) {
  const auto& uses = norm.output()->uses();
  const bool silu = uses.size() == 1 && uses[0].user->kind() == c10::aten::silu;
  auto& last = silu ? *uses[0].user : norm;
  Builder builder(last);
  builder.replace_by("deepcache::group_norm", {norm.input(0), norm.input(1), norm.input(2), norm.input(3),
                                               norm.input(4), builder.constant(silu)});
}

/// Attention without mask, dropout and grouped queries.
void fuse_attention(jit::Node& node) {
  const auto none = c10::IValue();
  if (!is_constant(node.input(3), none) || !is_constant(node.input(4), 0.0) || !is_constant(node.input(5), false))
    return;
  if (node.inputs().size() > 7 && !is_constant(node.input(7), false)) return;
  auto* scale = node.inputs().size() > 6 ? node.input(6) : nullptr;
  Builder builder(node);
  builder.replace_by("deepcache::attention",
                     {node.input(0), node.input(1), node.input(2), scale ? scale : builder.constant(none)});
}

/// values * gelu(gates), of the halves of a tensor.
void fuse_geglu(jit::Node& product) {
  for (const std::size_t side : {0, 1}) {
    const auto* gelu = product.input(side)->node();
    if (gelu->kind() != c10::aten::gelu || !is_constant(gelu->input(1), std::string("none"))) continue;
    const auto* halves = gelu->input(0)->node();
    if (halves->kind() != c10::prim::ListUnpack || halves->outputs().size() != 2 ||
        gelu->input(0) != halves->output(1) || product.input(1 - side) != halves->output(0))
      continue;
    const auto* chunk = halves->input()->node();
    if (chunk->kind() != c10::aten::chunk || !is_constant(chunk->input(1), std::int64_t{2}) ||
        !is_constant(chunk->input(2), std::int64_t{-1}))
      continue;
    Builder(product).replace_by("deepcache::geglu", {chunk->input(0)});
    return;
  }
}

/// What a packed layer alone is read by, if that is an operator of this kind.
jit::Node* only_reader(const jit::Node& layer, c10::Symbol kind) {
  const auto& uses = layer.output()->uses();
  return uses.size() == 1 && uses[0].user->kind() == kind ? uses[0].user : nullptr;
}

/// A packed layer adds what is added to its result: of residual connections.
void fuse_addition(jit::Node& layer) {
  auto* add = only_reader(layer, c10::aten::add);
  const bool has_added = !is_constant(layer.inputs().back(), c10::IValue());
  if (has_added || add == nullptr || add->inputs().size() != 3 || !is_constant(add->input(2), 1.0)) return;
  auto* added = add->input(add->input(0) == layer.output() ? 1 : 0);
  if (added == layer.output() || !added->type()->isSubtypeOf(*c10::TensorType::get())) return;
  auto inputs = layer.inputs().vec();
  inputs.back() = added;
  Builder(*add).replace_by(layer.kind().toQualString(), inputs);
}

void fuse(jit::Block& block) {
  for (auto* node : block.nodes()) {
    for (auto* inner : node->blocks()) fuse(*inner);
    if (node->kind() == c10::aten::group_norm) fuse_group_norm(*node);
    if (node->kind() == c10::aten::scaled_dot_product_attention) fuse_attention(*node);
    if (node->kind() == c10::aten::mul) fuse_geglu(*node);
    if (node->kind() == c10::aten::div && node->inputs().size() == 2 && is_constant(node->input(1), 1.0) &&
        is_floating_point(node->input(0)))
      node->output()->replaceAllUsesWith(node->input(0));
  }
}

/// The second pass, for what the first one has made or cleared away.
void fuse_layers(jit::Block& block) {
  for (auto* node : block.nodes()) {
    for (auto* inner : node->blocks()) fuse_layers(*inner);
    if (node->kind() == kLinear || node->kind() == kConvolution) fuse_addition(*node);
  }
}

}  // namespace

Graph fuse_operators(Graph graph) {
  if (!cpu::has_kernels(torch::kFloat)) return graph;
  cpu::register_operators();
  fuse(*graph->block());
  jit::EliminateDeadCode(graph);
  fuse_layers(*graph->block());
  jit::EliminateDeadCode(graph);
  return graph;
}

}  // namespace deepcache
