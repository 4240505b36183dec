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
  /// @param compute_dtype  if set, what its layers compute in (`cast_graph`); what it returns is in the dtype that it
  /// was
  ///                       traced in
  TorchScriptBackend(torch::jit::Module module, std::optional<torch::Device> device,
                     std::optional<torch::Dtype> compute_dtype = std::nullopt);

  c10::IValue run(std::vector<c10::IValue> inputs, Conditioning& conditioning) const override;
  FullResult run_full(std::vector<c10::IValue> inputs, Conditioning& conditioning,
                      std::int64_t cache_branch_id) const override;
  c10::IValue run_shallow(std::vector<c10::IValue> inputs, Conditioning& conditioning, const torch::Tensor& feature,
                          std::int64_t cache_branch_id) const override;
  void prepare_branch(std::int64_t cache_branch_id) const override { branch(cache_branch_id); }
  void check_inputs(const std::vector<c10::IValue>& inputs) const override;
  std::vector<std::string> input_names() const override;
  const std::vector<std::string>& branch_names() const override { return traits_.branch_names; }
  std::vector<BranchProfile> profile(const std::vector<c10::IValue>& inputs,
                                     const std::vector<std::int64_t>& branches) const override;
  torch::Device device() const override { return traits_.device; }
  std::shared_ptr<const Backend> with_controlnets(const std::vector<torch::jit::Module>& controlnets) const override;

 private:
  struct Branch {
    Program full;
    Program shallow;
  };
  struct Traits {
    torch::Device device;
    std::vector<std::string> branch_names;
    std::optional<torch::Dtype> compute_dtype, output_dtype;
  };
  TorchScriptBackend(const Forward& forward, std::optional<torch::Device> device,
                     std::optional<torch::Dtype> compute_dtype);
  TorchScriptBackend(Traits traits, Forward forward, PackedWeights weights);
  static Traits traits_of(const Forward& forward, std::optional<torch::Device> device,
                          std::optional<torch::Dtype> compute_dtype);
  Graph cast(Graph graph) const;
  /// As callers expect it, however the network works, and apart from what is kept for later steps.
  c10::IValue finished(const c10::IValue& output, const Conditioning& conditioning,
                       const torch::Tensor& feature = {}) const;
  const Branch& branch(std::int64_t cache_branch_id) const;
  void append_conditioning(std::vector<c10::IValue>& inputs, Conditioning& conditioning) const;

  Traits traits_;
  c10::FunctionSchema schema_;
  PackedWeights weights_;
  Graph graph_;  // as it was traced; where weights are packed, it knows their shapes only
  ConditioningSplit split_;
  Program conditioning_, program_;
  mutable std::mutex mutex_;
  mutable std::unordered_map<std::int64_t, Branch> branches_;  // made when first asked for
};

}  // namespace deepcache
