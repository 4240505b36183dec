#include "core/macs.hpp"

#include <ATen/ExpandUtils.h>
#include <ATen/record_function.h>
#include <torch/library.h>

#include <mutex>
#include <string_view>

#include "core/peak_memory.hpp"
#include "error.hpp"
#include "log.hpp"

namespace deepcache {
namespace {

thread_local Macs* counted = nullptr;  // of the MacCounter alive on this thread; callbacks can't hold state
thread_local bool inside = false;      // an operator is being counted: those that it calls are its own

/// An operator's multiply-accumulates; its output's size is known only when it has run.
struct Operator : at::ObserverContext {
  std::int64_t Macs::*kind = nullptr;
  std::int64_t macs = 0;
  std::int64_t macs_per_output_element = 0;
};

bool is_convolution(std::string_view name) {
  return name == "aten::_convolution" || name == "aten::convolution" || name == "aten::conv1d" ||
         name == "aten::conv2d" || name == "aten::conv3d";
}

/// What the operator will multiply; null if it isn't one that counts.
std::unique_ptr<Operator> describe(std::string_view name, c10::ArrayRef<const c10::IValue> inputs) {
  const auto tensor = [&](std::size_t i) -> const torch::Tensor& { return inputs[i].toTensor(); };
  auto result = std::make_unique<Operator>();
  result->kind = &Macs::weights;
  if (is_convolution(name)) {
    const auto weights_per_channel = tensor(1).numel() / tensor(1).size(0);
    if (inputs.size() > 6 && inputs[6].isBool() && inputs[6].toBool())  // transposed
      result->macs = tensor(0).numel() * weights_per_channel;
    else
      result->macs_per_output_element = weights_per_channel;
  } else if (name == "deepcache::convolution" || name == "deepcache::upsample_convolution") {
    result->macs_per_output_element = tensor(1).size(1) * tensor(1).size(2);
  } else if (name == "aten::linear" || name == "deepcache::linear") {
    result->macs_per_output_element = tensor(0).size(-1);
  } else if (name == "aten::addmm") {
    result->macs_per_output_element = tensor(1).size(-1);
  } else if (name == "aten::matmul" || name == "aten::mm" || name == "aten::bmm" || name == "aten::baddbmm") {
    const std::size_t first = name == "aten::baddbmm" ? 1 : 0;
    if (tensor(first + 1).dim() > 2) result->kind = &Macs::attention;
    result->macs_per_output_element = tensor(first).size(-1);
  } else if (name == "aten::scaled_dot_product_attention" || name == "deepcache::attention") {
    const auto queries = tensor(0).numel() / tensor(0).size(-1);
    result->kind = &Macs::attention;
    result->macs = queries * tensor(1).size(-2) * (tensor(1).size(-1) + tensor(2).size(-1));
  } else {
    return nullptr;
  }
  return result;
}

std::unique_ptr<at::ObserverContext> on_start(const at::RecordFunction& function) {
  if (counted == nullptr || inside) return nullptr;
  // The interpreter hands over its whole stack; an operator's own arguments are the last ones.
  const auto stack = function.inputs();
  auto described = describe(function.name(), stack.slice(stack.size() - function.num_inputs()));
  inside = described != nullptr;
  return described;
}

void on_end(const at::RecordFunction& function, at::ObserverContext* context) {
  const auto* described = static_cast<const Operator*>(context);
  if (described == nullptr) return;
  inside = false;
  const auto& outputs = function.outputs();  // the whole stack again; empty if the operator threw
  const auto elements = outputs.empty() || !outputs.back().isTensor() ? 0 : outputs.back().toTensor().numel();
  if (counted != nullptr) counted->*described->kind += described->macs + described->macs_per_output_element * elements;
}

/// Outputs without their values: LibTorch has no such kernels for the meta device in C++ (Python has).
torch::Tensor convolution_shape(const torch::Tensor& input, const torch::Tensor& weight,
                                const std::optional<torch::Tensor>&, torch::IntArrayRef stride,
                                torch::IntArrayRef padding, torch::IntArrayRef dilation, bool transposed,
                                torch::IntArrayRef output_padding, std::int64_t groups) {
  std::vector<std::int64_t> shape{input.size(0), transposed ? weight.size(1) * groups : weight.size(0)};
  for (std::size_t i = 0; i < stride.size(); ++i) {
    const auto size = input.size(static_cast<std::int64_t>(i) + 2);
    const auto reach = dilation[i] * (weight.size(static_cast<std::int64_t>(i) + 2) - 1);
    shape.push_back(transposed ? (size - 1) * stride[i] - 2 * padding[i] + reach + output_padding[i] + 1
                               : (size + 2 * padding[i] - reach - 1) / stride[i] + 1);
  }
  return torch::empty(shape, input.options());
}

torch::Tensor attention_shape(const torch::Tensor& query, const torch::Tensor&, const torch::Tensor& value,
                              const std::optional<torch::Tensor>&, double, bool, std::optional<double>, bool) {
  auto shape = query.sizes().vec();
  shape.back() = value.size(-1);
  return torch::empty(shape, query.options());
}

torch::Tensor where_shape(const torch::Tensor& condition, const torch::Tensor& self, const torch::Tensor& other) {
  const auto shape = at::infer_size(condition.sizes(), at::infer_size(self.sizes(), other.sizes()));
  return torch::empty(shape, condition.options().dtype(at::result_type(self, other)));
}

/// LibTorch's normalizations don't run on the meta device in C++ either: puts in their place what gives a tensor of the
/// same shape.
void replace_normalizations(torch::jit::Block& block) {
  for (auto* node : block.nodes()) {
    for (auto* inner : node->blocks()) replace_normalizations(*inner);
    const auto kind = node->kind();
    if (kind == c10::aten::group_norm || kind == c10::aten::layer_norm || kind == c10::aten::batch_norm ||
        kind == c10::aten::instance_norm) {
      const torch::jit::WithInsertPoint guard(node);
      node->output()->replaceAllUsesWith(block.owningGraph()->insert(c10::aten::neg, {node->input(0)}));
    }
  }
}

}  // namespace

MacCounter::MacCounter()
    : handle_(at::addThreadLocalCallback(at::RecordFunctionCallback(on_start, on_end)
                                             .needsInputs(true)
                                             .needsOutputs(true)
                                             .scopes({at::RecordScope::FUNCTION}))) {
  counted = &macs_;
  inside = false;
}

MacCounter::~MacCounter() {
  counted = nullptr;
  at::removeCallback(handle_);
}

namespace {

MacCount run_and_count(const Graph& graph, std::vector<c10::IValue> inputs) {
  const Program program(graph, "counted");
  const MacCounter counter;
  const MemoryMeter meter(inputs);
  const auto outputs = program.run(std::move(inputs));
  return {counter.macs(), shapes_of(outputs), meter.peak_bytes()};
}

MacCount count_on_meta(const Graph& graph, const std::vector<c10::IValue>& inputs) {
  const auto shapes = graph->copy();
  replace_normalizations(*shapes->block());
  // The dispatcher is the whole process's: what is added to it stays no longer than needed.
  static std::mutex mutex;
  const std::scoped_lock lock(mutex);
  torch::Library library(torch::Library::IMPL, "aten", c10::DispatchKey::Meta, __FILE__, __LINE__);
  library.impl("convolution_overrideable", convolution_shape);
  library.impl("scaled_dot_product_attention", attention_shape);
  library.impl("where.self", where_shape);
  return run_and_count(move_graph(shapes, torch::kMeta), shapes_of(inputs));
}

}  // namespace

MacCount count_macs(const Graph& graph, const std::vector<c10::IValue>& inputs) {
  return count_macs(
      graph, inputs, [&] { return graph; }, torch::kCPU);
}

MacCount count_macs(const Graph& graph, const std::vector<c10::IValue>& inputs, const std::function<Graph()>& runnable,
                    torch::Device device) {
  try {
    return count_on_meta(graph, inputs);
  } catch (const std::exception& error) {
    log(LogLevel::kDebug, fmt::format("multiply-accumulates are counted in a real step: {}", error.what()));
  }
  auto zeros = shapes_of(inputs);
  for (auto& value : zeros)
    value = map_tensors(
        value, [&](const torch::Tensor& shape) { return shape.is_meta() ? torch::zeros_like(shape, device) : shape; });
  return run_and_count(runnable(), std::move(zeros));
}

}  // namespace deepcache
