#include "core/torchscript_backend.hpp"

#include "core/macs.hpp"
#include "error.hpp"

namespace deepcache {

namespace {

/// Lets go of the module, whose weights the graph shares.
Forward take_forward(torch::jit::Module module) {
  return {inference_graph(module), forward_schema(module)};
}

}  // namespace

TorchScriptBackend::TorchScriptBackend(torch::jit::Module module, std::optional<torch::Device> device)
    : TorchScriptBackend(take_forward(std::move(module)), device) {}

TorchScriptBackend::TorchScriptBackend(const Forward& forward, std::optional<torch::Device> device)
    : TorchScriptBackend(forward, device.value_or(device_of(forward.graph)), skip_concatenation_names(forward.graph)) {}

TorchScriptBackend::TorchScriptBackend(Forward forward, torch::Device device, std::vector<std::string> branch_names,
                                       PackedWeights weights)
    : schema_(std::move(forward.schema)),
      device_(device),
      weights_(std::move(weights)),
      graph_(weights_.pack(move_graph(std::move(forward.graph), device_))),
      program_(weights_.runnable(graph_), "unet"),
      branch_names_(std::move(branch_names)) {}

std::shared_ptr<const Backend> TorchScriptBackend::with_controlnets(
    const std::vector<torch::jit::Module>& controlnets) const {
  // The ControlNets' own concatenations, if they have some, come before the UNet's, and so count for nothing.
  return std::shared_ptr<const Backend>(
      new TorchScriptBackend(add_controlnets({graph_, schema_}, controlnets), device_, branch_names_, weights_));
}

namespace {

/// As callers expect it, whatever layout the network worked in.
c10::IValue contiguous(const c10::IValue& output) {
  return map_tensors(output, [](const torch::Tensor& tensor) { return tensor.contiguous(); });
}

}  // namespace

c10::IValue TorchScriptBackend::run(std::vector<c10::IValue> inputs) const {
  return contiguous(program_.run(std::move(inputs)).at(0));
}

Backend::FullResult TorchScriptBackend::run_full(std::vector<c10::IValue> inputs, std::int64_t cache_branch_id) const {
  auto outputs = branch(cache_branch_id).full.run(std::move(inputs));
  return {contiguous(outputs.at(0)), outputs.at(1).toTensor()};
}

c10::IValue TorchScriptBackend::run_shallow(std::vector<c10::IValue> inputs, const torch::Tensor& feature,
                                            std::int64_t cache_branch_id) const {
  inputs.emplace_back(feature);
  return contiguous(branch(cache_branch_id).shallow.run(std::move(inputs)).at(0));
}

void TorchScriptBackend::check_inputs(const std::vector<c10::IValue>& inputs) const {
  try {
    auto stack = inputs;
    schema_.checkAndNormalizeInputs(stack);
    check_argument(stack.size() == inputs.size(), "the UNet takes {} inputs, got {}", stack.size(), inputs.size());
  } catch (const c10::Error& error) {
    throw std::invalid_argument(fmt::format("wrong inputs for the UNet: {}", error.what_without_backtrace()));
  }
}

std::vector<std::string> TorchScriptBackend::input_names() const {
  std::vector<std::string> names;
  for (const auto& argument : schema_.arguments()) names.push_back(argument.name());
  return names;
}

const TorchScriptBackend::Branch& TorchScriptBackend::branch(std::int64_t cache_branch_id) const {
  const std::scoped_lock lock(mutex_);
  if (const auto found = branches_.find(cache_branch_id); found != branches_.end()) return found->second;
  const auto [full, shallow] = cut(graph_, cache_branch_id);
  const Program full_step(weights_.runnable(full), "full"), cached_step(weights_.runnable(shallow), "shallow");
  return branches_.emplace(cache_branch_id, Branch{full_step, cached_step}).first->second;
}

BranchProfile TorchScriptBackend::profile(const std::vector<c10::IValue>& inputs, std::int64_t cache_branch_id) const {
  const auto [full, shallow] = cut(graph_, cache_branch_id);
  const auto count = [&](const Graph& graph, const std::vector<c10::IValue>& graph_inputs) {
    return count_macs(graph, graph_inputs, weights_.runnable(graph), device_);
  };
  const auto full_step = count(full, inputs);
  const auto feature = full_step.outputs.at(1).toTensor();
  auto shallow_inputs = inputs;
  shallow_inputs.emplace_back(feature);
  return {.cache_branch_id = cache_branch_id,
          .name = branch_names_.at(static_cast<std::size_t>(cache_branch_id)),
          .feature_shape = feature.sizes().vec(),
          .feature_bytes = static_cast<std::int64_t>(feature.nbytes()),
          .full_step = full_step.macs,
          .cached_step = count(shallow, shallow_inputs).macs};
}

}  // namespace deepcache
