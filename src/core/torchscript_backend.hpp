#pragma once

#include <memory>
#include <mutex>
#include <optional>
#include <unordered_map>

#include "core/backend.hpp"
#include "core/controlnet_graph.hpp"
#include "core/graph_cut.hpp"
#include "core/packed_weights.hpp"

namespace deepcache {

/// Runs a traced UNet, cut in memory: one file serves every branch, batch and latent size.
class TorchScriptBackend : public Backend {
 public:
  /// @param device  where it runs; if none is given, where the module's weights are
  TorchScriptBackend(torch::jit::Module module, std::optional<torch::Device> device);

  c10::IValue run(std::vector<c10::IValue> inputs) const override;
  FullResult run_full(std::vector<c10::IValue> inputs, std::int64_t cache_branch_id) const override;
  c10::IValue run_shallow(std::vector<c10::IValue> inputs, const torch::Tensor& feature,
                          std::int64_t cache_branch_id) const override;
  void check_inputs(const std::vector<c10::IValue>& inputs) const override;
  std::vector<std::string> input_names() const override;
  const std::vector<std::string>& branch_names() const override { return branch_names_; }
  BranchProfile profile(const std::vector<c10::IValue>& inputs, std::int64_t cache_branch_id) const override;
  torch::Device device() const override { return device_; }
  std::shared_ptr<const Backend> with_controlnets(const std::vector<torch::jit::Module>& controlnets) const override;

 private:
  struct Branch {
    Program full;
    Program shallow;
  };
  TorchScriptBackend(const Forward& forward, std::optional<torch::Device> device);
  TorchScriptBackend(Forward forward, torch::Device device, std::vector<std::string> branch_names,
                     PackedWeights weights = {});
  const Branch& branch(std::int64_t cache_branch_id) const;

  c10::FunctionSchema schema_;
  torch::Device device_;
  PackedWeights weights_;
  Graph graph_;  // as it was traced; where weights are packed, it knows their shapes only
  Program program_;
  std::vector<std::string> branch_names_;
  mutable std::mutex mutex_;
  mutable std::unordered_map<std::int64_t, Branch> branches_;  // made when first asked for
};

}  // namespace deepcache
