#include "core/torchscript.hpp"

#include <torch/csrc/jit/ir/constants.h>
#include <torch/csrc/jit/passes/dead_code_elimination.h>
#include <torch/csrc/jit/serialization/import.h>
#include <torch/cuda.h>

#include <algorithm>
#include <fstream>
#include <string>
#include <utility>

#include "core/cast_graph.hpp"
#include "core/packed_weights.hpp"
#include "error.hpp"
#include "io/files.hpp"

namespace deepcache {
namespace jit = torch::jit;

jit::Module load_module(const std::filesystem::path& file, std::optional<torch::Dtype> dtype) {
  auto stream = open_file(file);
  try {
    auto module = jit::load(stream, torch::Device(torch::kCPU));
    module.eval();
    if (!dtype) return module;
    const auto parameters = module.parameters();
    check_data(parameters.size() > 0, "{} has no parameters to cast to {}; a frozen module keeps its dtype",
               file.string(), c10::toString(*dtype));
    const auto cast = [&](const torch::Tensor& tensor) {
      if (tensor.is_floating_point()) tensor.set_data(tensor.detach().to(*dtype));
    };
    for (const auto& parameter : parameters) cast(parameter);
    for (const auto& buffer : module.buffers()) cast(buffer);
    return module;
  } catch (const c10::Error& error) {
    throw std::runtime_error(
        fmt::format("{} isn't a readable TorchScript file: {}", file.string(), error.what_without_backtrace()));
  }
}

void check_device(torch::Device device) {
  const auto count = torch::cuda::device_count();
  const bool there = device.has_index() ? device.index() < count : count > 0;
  check_argument(
      device.is_cpu() || (device.is_cuda() && there), "no device \"{}\": allowed are cpu{}", device.str(),
      count == 0 ? " (this LibTorch sees no CUDA device)" : fmt::format(" and cuda:0 to cuda:{}", count - 1));
}

namespace {

void move_constants(jit::Block& block, torch::Device device) {
  for (auto* node : block.nodes()) {
    for (auto* inner : node->blocks()) move_constants(*inner, device);
    if (node->kind() != c10::prim::Constant || node->output()->type()->kind() == c10::NoneType::Kind) continue;
    const auto value = jit::toIValue(node->output());
    if (!value || !(value->isTensor() || value->isTensorList() || value->isDevice())) continue;
    const auto replacement =
        value->isDevice() ? c10::IValue(device) : map_tensors(*value, [&](const torch::Tensor& tensor) {
          return !tensor.defined() || tensor.dim() == 0 || tensor.is_meta() ? tensor : tensor.detach().to(device);
        });
    jit::WithInsertPoint guard(node);
    node->output()->replaceAllUsesWith(block.owningGraph()->insertConstant(replacement));
  }
}

}  // namespace

torch::Tensor constant_tensor(const jit::Value* value) {
  const auto constant = jit::toIValue(value);
  return constant && constant->isTensor() ? constant->toTensor() : torch::Tensor();
}

void replace_by(jit::Node& node, const char* kind, const std::vector<jit::Value*>& inputs) {
  auto& graph = *node.owningGraph();
  auto* made = graph.insertNode(graph.create(c10::Symbol::fromQualString(kind), inputs));
  made->setScope(node.scope());
  made->output()->setType(node.output()->type());
  node.output()->replaceAllUsesWith(made->output());
}

bool writes_in_place(const jit::Block& block) {
  for (const auto* node : block.nodes()) {
    const auto* schema = node->maybeSchema();
    if (schema != nullptr && schema->is_mutable()) return true;
    for (const auto* inner : node->blocks())
      if (writes_in_place(*inner)) return true;
  }
  return false;
}

torch::Device device_of(const Graph& graph) {
  for (const auto* node : graph->nodes()) {
    if (node->kind() != c10::prim::Constant) continue;
    const auto value = jit::toIValue(node->output());
    if (value && value->isTensor() && value->toTensor().defined() && value->toTensor().dim() > 0)
      return value->toTensor().device();
  }
  return torch::kCPU;
}

Graph move_graph(Graph graph, torch::Device device) {
  move_constants(*graph->block(), device);
  jit::EliminateDeadCode(graph);
  return graph;
}

c10::IValue map_tensors(const c10::IValue& value, const std::function<torch::Tensor(const torch::Tensor&)>& function) {
  if (value.isTensor()) return function(value.toTensor());
  if (value.isTuple()) {
    std::vector<c10::IValue> elements;
    for (const auto& element : value.toTupleRef().elements()) elements.push_back(map_tensors(element, function));
    const auto type = value.type()->expect<c10::TupleType>();
    return type->schema() ? c10::ivalue::Tuple::createNamed(std::move(elements), type)
                          : c10::ivalue::Tuple::create(std::move(elements));
  }
  if (value.isList()) {
    auto list = value.toList().copy();
    for (size_t i = 0; i < list.size(); ++i) list.set(i, map_tensors(list.get(i), function));
    return list;
  }
  if (value.isGenericDict()) {
    auto dictionary = value.toGenericDict().copy();
    for (const auto& entry : value.toGenericDict())
      dictionary.insert_or_assign(entry.key(), map_tensors(entry.value(), function));
    return dictionary;
  }
  return value;
}

bool alike(const c10::IValue& a, const c10::IValue& b,
           const std::function<bool(const torch::Tensor&, const torch::Tensor&)>& same) {
  if (a.isTensor() && b.isTensor()) return same(a.toTensor(), b.toTensor());
  if (a.isGenericDict() && b.isGenericDict()) {
    const auto left = a.toGenericDict(), right = b.toGenericDict();
    return left.size() == right.size() &&
           std::equal(left.begin(), left.end(), right.begin(), [&](const auto& one, const auto& other) {
             return one.key() == other.key() && alike(one.value(), other.value(), same);
           });
  }
  if ((a.isTuple() && b.isTuple()) || (a.isList() && b.isList())) {
    const auto elements = [](const c10::IValue& value) {
      return value.isTuple() ? value.toTupleRef().elements().vec() : value.toListRef().vec();
    };
    return std::ranges::equal(elements(a), elements(b),
                              [&](const auto& one, const auto& other) { return alike(one, other, same); });
  }
  return !a.isTensor() && !b.isTensor() && a == b;
}

std::vector<c10::IValue> shapes_of(const std::vector<c10::IValue>& inputs) {
  std::vector<c10::IValue> shapes;
  for (const auto& input : inputs)
    shapes.push_back(map_tensors(input, [](const torch::Tensor& tensor) {
      return tensor.dim() == 0 ? torch::zeros({}, tensor.scalar_type()) : torch::empty_like(tensor, torch::kMeta);
    }));
  return shapes;
}

std::vector<c10::IValue> Program::run(std::vector<c10::IValue> inputs) const {
  const torch::NoGradGuard no_grad;
  jit::InterpreterState(code_).run(inputs);
  return inputs;
}

namespace {

/// Lets go of the module, whose weights the graph shares.
Graph graph_of(jit::Module module) {
  const auto released = std::move(module);
  return inference_graph(released);
}

Graph make_runnable(Graph graph, torch::Device device, std::optional<torch::Dtype> compute_dtype) {
  if (compute_dtype) graph = cast_graph(std::move(graph), *compute_dtype);
  PackedWeights weights;
  return weights.runnable(weights.pack(move_graph(std::move(graph), device)));
}

}  // namespace

Network::Network(jit::Module module, torch::Device device, std::optional<torch::Dtype> compute_dtype)
    : program_(make_runnable(graph_of(std::move(module)), device, compute_dtype), "network") {}

c10::IValue Network::forward(std::vector<c10::IValue> inputs) const {
  return program_.run(std::move(inputs)).at(0);
}

torch::Tensor Network::operator()(const torch::Tensor& input) const {
  return first_tensor(forward({input})).contiguous();
}

torch::Tensor first_tensor(const c10::IValue& output) {
  if (output.isTensor()) return output.toTensor();
  if (output.isTuple() && !output.toTupleRef().elements().empty())
    return first_tensor(output.toTupleRef().elements()[0]);
  if (output.isGenericDict() && output.toGenericDict().contains("sample"))
    return first_tensor(output.toGenericDict().at("sample"));
  throw std::invalid_argument("the network returns " + output.tagKind() +
                              "; allowed are a tensor, a tuple that begins with one, and a dictionary with \"sample\"");
}

}  // namespace deepcache
