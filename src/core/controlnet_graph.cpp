#include "core/controlnet_graph.hpp"

#include <torch/csrc/jit/ir/constants.h>
#include <torch/csrc/jit/passes/dead_code_elimination.h>

#include <algorithm>
#include <array>
#include <optional>
#include <string>
#include <utility>

#include "core/graph_cut.hpp"
#include "error.hpp"

namespace deepcache {
namespace jit = torch::jit;
namespace {

using Values = std::vector<jit::Value*>;

constexpr std::size_t kDeep = 0, kSkip = 1;  // operands of a skip concatenation
constexpr const char* kSample = "sample";
constexpr const char* kImage = "controlnet_cond";
constexpr const char* kScale = "conditioning_scale";

std::vector<std::string> argument_names(const c10::FunctionSchema& schema) {
  std::vector<std::string> names;
  for (const auto& argument : schema.arguments()) names.push_back(argument.name());
  return names;
}

jit::Value* find_input(const Forward& network, const std::string& name) {
  const auto position = network.schema.argumentIndexWithName(name);
  return position ? network.graph->inputs().at(static_cast<std::size_t>(*position)) : nullptr;
}

/// The size of one dimension of a layer's weights; nothing if the node isn't a convolution or a linear layer.
std::optional<std::int64_t> weight_size(const jit::Node& node, std::int64_t dim) {
  static const std::array layers{c10::Symbol::fromQualString("aten::_convolution"),
                                 c10::Symbol::fromQualString("aten::conv2d"),
                                 c10::Symbol::fromQualString("aten::linear")};
  if (std::ranges::find(layers, node.kind()) == layers.end()) return std::nullopt;
  const auto weight = jit::toIValue(node.input(1));
  return weight && weight->isTensor() ? std::optional(weight->toTensor().size(dim)) : std::nullopt;
}

/// How many channels a value has, where the last layer before it tells: behind the operators that residual blocks and
/// transformers end with.
std::optional<std::int64_t> channels_of(const jit::Value* value) {
  static const std::array keeping{c10::aten::add,     c10::aten::mul,        c10::aten::div,
                                  c10::aten::dropout, c10::aten::contiguous, c10::aten::permute,
                                  c10::aten::reshape, c10::aten::view,       c10::aten::to};
  const auto& node = *value->node();
  if (std::ranges::find(keeping, node.kind()) == keeping.end()) return weight_size(node, 0);
  return channels_of(node.input(0));
}

/// How wide an input is, where a layer that reads it tells: channels of `sample`, features of `encoder_hidden_states`.
std::optional<std::int64_t> width_of(const jit::Value* input) {
  for (const auto& use : input->uses())
    if (const auto width = use.offset == 0 ? weight_size(*use.user, 1) : std::nullopt) return width;
  return std::nullopt;
}

void check_same_width(const std::optional<std::int64_t>& controlnet, const std::optional<std::int64_t>& unet,
                      std::size_t index, const std::string& what) {
  check_argument(!controlnet || !unet || *controlnet == *unet,
                 "ControlNet {} is for another UNet: its {} has width {}, this UNet's has {}", index, what,
                 controlnet.value_or(0), unet.value_or(0));
}

/// The tensors that a ControlNet returns.
Values residuals_of(const Forward& controlnet, std::size_t index, std::size_t expected) {
  auto* const output = controlnet.graph->outputs().at(0);
  const auto returned = output->type()->str();
  check_argument(output->node()->kind() == c10::prim::TupleConstruct,
                 "ControlNet {} returns {}; it must return a tuple of tensors", index, returned);
  const Values residuals = output->node()->inputs().vec();
  check_argument(residuals.size() == expected,
                 "ControlNet {} returns {} residuals, this UNet takes {}: one for each of its {} skip connections, and "
                 "one for its middle block",
                 index, residuals.size(), expected, expected - 1);
  for (const auto* residual : residuals)
    check_argument(residual->type()->isSubtypeOf(c10::TensorType::get()),
                   "ControlNet {} returns {}; it must return a tuple of tensors", index, returned);
  return residuals;
}

/// Whether the UNet's sample holds more than a ControlNet's: inpainting UNets read the latents, then the mask, then the
/// latents of what is kept, and ControlNets the first of these.
bool reads_latents_only(const Forward& unet, const Forward& controlnet) {
  const auto whole = width_of(find_input(unet, kSample)), latents = width_of(find_input(controlnet, kSample));
  return whole && latents && *whole == 2 * *latents + 1;
}

void check_fits(const Forward& unet, const Values& skips, const Forward& controlnet, std::size_t index) {
  const auto known = argument_names(unet.schema);
  check_argument(find_input(controlnet, kImage) != nullptr,
                 "ControlNet {} has no input \"{}\" for the control image, only {}: is it a ControlNet?", index, kImage,
                 fmt::join(argument_names(controlnet.schema), ", "));
  for (const auto& name : argument_names(controlnet.schema)) {
    if (name == kImage) continue;
    check_argument(find_input(unet, name) != nullptr,
                   "ControlNet {} reads \"{}\", which this UNet doesn't have; it has {}", index, name,
                   fmt::join(known, ", "));
    if (name == kSample && reads_latents_only(unet, controlnet)) continue;
    check_same_width(width_of(find_input(controlnet, name)), width_of(find_input(unet, name)), index, name);
  }
  const auto residuals = residuals_of(controlnet, index, skips.size() + 1);
  for (std::size_t i = 0; i < skips.size(); ++i)
    check_same_width(channels_of(residuals[i]), channels_of(skips[i]), index, fmt::format("residual {}", i));
}

/// Inserts a ControlNet at the graph's insertion point, and returns its residuals, scaled.
Values insert(Forward& network, const Forward& controlnet, std::size_t index) {
  auto& graph = *network.graph;
  const auto add_input = [&](const char* what, const c10::TypePtr& type, std::vector<c10::Argument>& arguments) {
    arguments.emplace_back(fmt::format("{}_{}", what, index), type);
    return graph.addInput(arguments.back().name())->setType(type);
  };
  auto arguments = network.schema.arguments();
  auto* const image = add_input(kImage, c10::TensorType::get(), arguments);
  auto* const scale = add_input(kScale, c10::FloatType::get(), arguments);

  Values inputs;
  for (const auto& name : argument_names(controlnet.schema)) {
    inputs.push_back(name == kImage ? image : find_input(network, name));
    if (name == kSample && reads_latents_only(network, controlnet))
      inputs.back() = graph.insert(c10::aten::slice, {inputs.back(), std::int64_t{1}, std::int64_t{0},
                                                      *width_of(find_input(controlnet, kSample))});
  }
  network.schema = network.schema.cloneWithArguments(std::move(arguments));
  auto* const returned = jit::insertGraph(graph, *controlnet.graph, inputs).at(0);
  Values residuals;
  for (jit::Value* residual : returned->node()->inputs())  // `insert` would take a const one for a bool
    residuals.push_back(graph.insert(c10::aten::mul, {residual, scale}));
  return residuals;
}

void add_to_operand(const jit::Node& concatenation, std::size_t operand, jit::Value* residual) {
  auto* operands = concatenation.input(0)->node();
  const jit::WithInsertPoint guard(operands);
  operands->replaceInput(operand,
                         operands->owningGraph()->insert(c10::aten::add, {operands->input(operand), residual}));
}

}  // namespace

Forward forward_of(jit::Module module) {
  const auto released = std::move(module);
  return {inference_graph(released), forward_schema(released)};
}

Forward add_controlnets(const Forward& unet, const std::vector<Forward>& controlnets) {
  check_argument(find_input(unet, fmt::format("{}_0", kImage)) == nullptr,
                 "this UNet has ControlNets already: give all of them in one call");
  Forward result{unet.graph->copy(), unet.schema};
  auto places = skip_concatenations(result.graph);
  std::ranges::reverse(places);  // by cache_branch_id
  Values skips;
  for (const auto* place : places) {
    check_argument(deep_operand(*place) == kDeep,
                   "a UNet with ControlNets must concatenate the deep layers' feature with the skip connection in this "
                   "order, as diffusers' does");
    skips.push_back(place->input(0)->node()->input(kSkip));
  }

  const jit::WithInsertPoint guard(*result.graph->nodes().begin());
  Values sums;
  for (std::size_t i = 0; i < controlnets.size(); ++i) {
    check_fits(unet, skips, controlnets[i], i);
    const auto residuals = insert(result, controlnets[i], i);
    if (i == 0) sums.resize(residuals.size());
    for (std::size_t j = 0; j < sums.size(); ++j)
      sums[j] = i == 0 ? residuals[j] : result.graph->insert(c10::aten::add, {sums[j], residuals[j]});
  }
  if (sums.empty()) return result;
  for (std::size_t j = 0; j < places.size(); ++j) add_to_operand(*places[j], kSkip, sums[j]);
  add_to_operand(*places.back(), kDeep, sums.back());
  jit::EliminateDeadCode(result.graph);
  return result;
}

}  // namespace deepcache
