#pragma once

#include <torch/csrc/jit/api/module.h>
#include <torch/csrc/jit/ir/ir.h>
#include <torch/csrc/jit/runtime/interpreter.h>
#include <torch/types.h>

#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <vector>

/// The little of LibTorch's JIT that running a traced network needs.
namespace deepcache {

using Graph = std::shared_ptr<torch::jit::Graph>;

/// Reads a TorchScript file to the CPU, in evaluation mode.
/// @param dtype  if set, what floating-point parameters and buffers become
/// @throws std::runtime_error naming the file if it is missing, truncated or no TorchScript module, or if it has no
///         parameters for `dtype`: freezing makes them constants.
torch::jit::Module load_module(const std::filesystem::path& file, std::optional<torch::Dtype> dtype = std::nullopt);

/// @throws std::invalid_argument unless the device is a CPU, or a CUDA device that is there.
void check_device(torch::Device device);

/// `forward` as one graph: calls are inlined, parameters are constants that share the module's memory, `self` is gone,
/// and what doesn't depend on the inputs is computed. The scope of each node names the submodule that reads its result
/// (the one that made it, where none is called with it), such as "up_blocks.3.resnets.2". Unlike LibTorch's freezing,
/// this leaves nothing behind in the module, and nothing in the graph points back to it.
/// @throws std::invalid_argument if the module is in training mode, or changes its own attributes.
Graph inference_graph(const torch::jit::Module& module);

/// The arguments of `forward` without `self`, which that graph doesn't take, and what it returns.
c10::FunctionSchema forward_schema(const torch::jit::Module& module);

/// The tensor that a value of a graph is, if it is a constant one; undefined otherwise.
torch::Tensor constant_tensor(const torch::jit::Value* value);

/// Puts an operator, made at the insert point, in the place of `node`, which nothing reads any more.
void replace_by(torch::jit::Node& node, const char* kind, const std::vector<torch::jit::Value*>& inputs);

/// Whether an operator writes into one of its inputs, which other values may share memory with.
bool writes_in_place(const torch::jit::Block& block);

/// The device of a graph's weights, its first constant tensor that isn't zero-dimensional; the CPU if it has none.
torch::Device device_of(const Graph& graph);

/// Moves a graph's constants: tensors, and devices, which tracing writes into the graph. Zero-dimensional tensors stay:
/// they are numbers to every operator; so do those on the meta device. Changes the graph, and returns it.
Graph move_graph(Graph graph, torch::Device device);

/// Applies `function` to each tensor inside a value: itself, or an element of a tuple, list or dictionary.
c10::IValue map_tensors(const c10::IValue& value, const std::function<torch::Tensor(const torch::Tensor&)>& function);

/// Whether two values have the same structure, `same` tensors, and equal numbers and the like.
bool alike(const c10::IValue& a, const c10::IValue& b,
           const std::function<bool(const torch::Tensor&, const torch::Tensor&)>& same);

/// The same inputs without their values: tensors on the meta device. A zero-dimensional one, a number to every
/// operator, becomes 0 on the CPU. Doesn't wait for a device.
std::vector<c10::IValue> shapes_of(const std::vector<c10::IValue>& inputs);

/// A graph compiled for LibTorch's interpreter, run as it is: no profiling runs and no global executor settings, so the
/// first call is as fast as the others. May be run from several threads at once.
class Program {
 public:
  Program(const Graph& graph, const char* name) : code_(graph, name) {}
  /// The graph's outputs. Gradients are off.
  std::vector<c10::IValue> run(std::vector<c10::IValue> inputs) const;

 private:
  torch::jit::Code code_;
};

/// A traced network that isn't cut: text encoders and autoencoders.
class Network {
 public:
  /// @param compute_dtype  if set, what its layers compute in (`cast_graph`), and what it returns may be in
  Network(torch::jit::Module module, torch::Device device, std::optional<torch::Dtype> compute_dtype = std::nullopt);
  c10::IValue forward(std::vector<c10::IValue> inputs) const;
  /// The first tensor of what `forward` returns.
  torch::Tensor operator()(const torch::Tensor& input) const;

 private:
  Program program_;
};

/// The output of a network that returns a tensor, a tuple that begins with one, or a dictionary that has "sample".
/// @throws std::invalid_argument if it is anything else.
torch::Tensor first_tensor(const c10::IValue& output);

}  // namespace deepcache
