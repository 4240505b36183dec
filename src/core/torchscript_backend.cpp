#include "core/torchscript_backend.hpp"

#include <algorithm>

#include "core/cast_graph.hpp"
#include "core/macs.hpp"
#include "cpu/operators.hpp"
#include "error.hpp"
#include "log.hpp"

namespace deepcache {

TorchScriptBackend::TorchScriptBackend(torch::jit::Module module, std::optional<torch::Device> device,
                                       std::optional<torch::Dtype> compute_dtype)
    : TorchScriptBackend(forward_of(std::move(module)), device, compute_dtype) {}

TorchScriptBackend::TorchScriptBackend(const Forward& forward, std::optional<torch::Device> device,
                                       std::optional<torch::Dtype> compute_dtype)
    : TorchScriptBackend(traits_of(forward, device, compute_dtype), forward, {}) {}

TorchScriptBackend::Traits TorchScriptBackend::traits_of(const Forward& forward, std::optional<torch::Device> device,
                                                         std::optional<torch::Dtype> compute_dtype) {
  const auto traced = traced_dtype(forward.graph);
  Traits traits{.device = device.value_or(device_of(forward.graph)),
                .branch_names = skip_concatenation_names(forward.graph),
                .compute_dtype = compute_dtype,
                .output_dtype = compute_dtype ? traced : std::nullopt};
  const auto dtype = compute_dtype.value_or(traced.value_or(torch::kFloat));
  if (traits.device.is_cpu() && cpu::is_emulated(dtype))
    log(LogLevel::kWarning, fmt::format("the UNet computes in {}, for which this CPU has no instructions: float32 "
                                        "(UNetOptions::compute_dtype, --dtype float32) is faster",
                                        c10::toString(dtype)));
  return traits;
}

TorchScriptBackend::TorchScriptBackend(Traits traits, Forward forward, PackedWeights weights)
    : traits_(std::move(traits)),
      schema_(std::move(forward.schema)),
      weights_(std::move(weights)),
      graph_(weights_.pack(move_graph(cast(std::move(forward.graph)), traits_.device))),
      split_(split_conditioning(graph_)),
      conditioning_(weights_.runnable(split_.conditioning), "conditioning"),
      program_(weights_.runnable(split_.step), "unet") {}

Graph TorchScriptBackend::cast(Graph graph) const {
  return traits_.compute_dtype ? cast_graph(std::move(graph), *traits_.compute_dtype) : graph;
}

std::shared_ptr<const Backend> TorchScriptBackend::with_controlnets(
    const std::vector<torch::jit::Module>& controlnets) const {
  std::vector<Forward> forwards;
  for (const auto& controlnet : controlnets) {
    auto forward = forward_of(controlnet);
    forwards.push_back({cast(forward.graph), forward.schema});
  }
  // The ControlNets' own concatenations, if they have some, come before the UNet's, and so count for nothing.
  return std::shared_ptr<const Backend>(
      new TorchScriptBackend(traits_, add_controlnets({graph_, schema_}, forwards), weights_));
}

c10::IValue TorchScriptBackend::finished(const c10::IValue& output, const Conditioning& conditioning,
                                         const torch::Tensor& feature) const {
  const auto is_kept = [&](const torch::Tensor& tensor) {
    return (feature.defined() && tensor.is_alias_of(feature)) ||
           std::ranges::any_of(conditioning.values, [&](const c10::IValue& value) {
             return value.isTensor() && tensor.is_alias_of(value.toTensor());
           });
  };
  return map_tensors(output, [&](const torch::Tensor& tensor) {
    const auto dtype = tensor.is_floating_point() ? traits_.output_dtype : std::nullopt;
    const auto result = tensor.to(dtype.value_or(tensor.scalar_type())).contiguous();
    return is_kept(result) ? result.clone() : result;
  });
}

void TorchScriptBackend::append_conditioning(std::vector<c10::IValue>& inputs, Conditioning& conditioning) const {
  auto now = split_.unchanging(inputs);
  const bool known = conditioning.values.size() == split_.conditioning->outputs().size() &&
                     std::ranges::equal(now, conditioning.inputs, is_same);
  if (!known) {
    if (traits_.device.is_cpu())  // copies: the caller may write into its own, of which what is kept may be a view
      for (auto& input : now)
        input = map_tensors(input, [](const torch::Tensor& tensor) { return tensor.detach().clone(); });
    conditioning.values = conditioning_.run(now);
    conditioning.inputs = traits_.device.is_cpu() ? std::move(now) : std::vector<c10::IValue>();
  }
  inputs.insert(inputs.end(), conditioning.values.begin(), conditioning.values.end());
}

c10::IValue TorchScriptBackend::run(std::vector<c10::IValue> inputs, Conditioning& conditioning) const {
  append_conditioning(inputs, conditioning);
  return finished(program_.run(std::move(inputs)).at(0), conditioning);
}

Backend::FullResult TorchScriptBackend::run_full(std::vector<c10::IValue> inputs, Conditioning& conditioning,
                                                 std::int64_t cache_branch_id) const {
  append_conditioning(inputs, conditioning);
  auto outputs = branch(cache_branch_id).full.run(std::move(inputs));
  const auto feature = outputs.at(1).toTensor();
  return {finished(outputs.at(0), conditioning, feature), feature};
}

c10::IValue TorchScriptBackend::run_shallow(std::vector<c10::IValue> inputs, Conditioning& conditioning,
                                            const torch::Tensor& feature, std::int64_t cache_branch_id) const {
  append_conditioning(inputs, conditioning);
  inputs.emplace_back(feature);
  return finished(branch(cache_branch_id).shallow.run(std::move(inputs)).at(0), conditioning, feature);
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
  const auto [full, shallow] = cut(split_.step, cache_branch_id);
  const Program full_step(weights_.runnable(full), "full"), cached_step(weights_.runnable(shallow), "shallow");
  return branches_.emplace(cache_branch_id, Branch{full_step, cached_step}).first->second;
}

std::vector<BranchProfile> TorchScriptBackend::profile(const std::vector<c10::IValue>& inputs,
                                                       const std::vector<std::int64_t>& branches) const {
  const auto count = [&](const Graph& graph, const std::vector<c10::IValue>& graph_inputs) {
    return count_macs(
        graph, graph_inputs, [&] { return weights_.runnable(graph); }, traits_.device);
  };
  const auto full_step = count(with_features(graph_), inputs);
  std::vector<BranchProfile> profiles;
  for (const auto branch : branches) {
    const auto index = static_cast<std::size_t>(branch);
    const auto feature = full_step.outputs.at(index + 1).toTensor();
    auto shallow_inputs = inputs;
    shallow_inputs.emplace_back(feature);
    profiles.push_back({.cache_branch_id = branch,
                        .name = traits_.branch_names.at(index),
                        .feature_shape = feature.sizes().vec(),
                        .feature_bytes = static_cast<std::int64_t>(feature.nbytes()),
                        .full_step = full_step.macs,
                        .cached_step = count(shallow_graph(graph_, branch), shallow_inputs).macs});
  }
  return profiles;
}

}  // namespace deepcache
