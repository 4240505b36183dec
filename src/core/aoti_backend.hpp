#pragma once

#include <filesystem>
#include <memory>
#include <optional>

#include "core/backend.hpp"

namespace torch::inductor {
class AOTIModelPackageLoader;
}

namespace deepcache {

/// Runs a UNet that tools/export.py --backend aoti compiled: one branch, and inputs of one set of shapes and dtypes.
class AotiBackend : public Backend {
 public:
  /// Runs code that is in the file.
  /// @param dtype  if set, what the network must have been compiled for
  /// @throws std::runtime_error naming the file if it can't be loaded, or was compiled for another kind of processor.
  /// @throws std::invalid_argument if it was compiled for another device or dtype.
  AotiBackend(const std::filesystem::path& file, torch::Device device, std::optional<torch::Dtype> dtype);
  ~AotiBackend() override;

  c10::IValue run(std::vector<c10::IValue> inputs, Conditioning& conditioning) const override;
  FullResult run_full(std::vector<c10::IValue> inputs, Conditioning& conditioning,
                      std::int64_t cache_branch_id) const override;
  c10::IValue run_shallow(std::vector<c10::IValue> inputs, Conditioning& conditioning, const torch::Tensor& feature,
                          std::int64_t cache_branch_id) const override;
  void prepare_branch(std::int64_t cache_branch_id) const override;
  void check_inputs(const std::vector<c10::IValue>& inputs) const override;
  std::vector<std::string> input_names() const override;
  const std::vector<std::string>& branch_names() const override { return branch_names_; }
  std::vector<BranchProfile> profile(const std::vector<c10::IValue>& inputs,
                                     const std::vector<std::int64_t>& branches) const override;
  torch::Device device() const override { return torch::kCPU; }
  std::shared_ptr<const Backend> with_controlnets(const std::vector<torch::jit::Module>& controlnets) const override;

 private:
  using Loader = torch::inductor::AOTIModelPackageLoader;
  struct Input {
    std::string name;
    torch::Dtype dtype;
    std::vector<std::int64_t> shape;
  };
  std::vector<torch::Tensor> tensors(const std::vector<c10::IValue>& inputs) const;
  void read_description(const std::filesystem::path& file, torch::Device device, std::optional<torch::Dtype> dtype);

  std::int64_t cache_branch_id_ = 0;
  std::vector<Input> inputs_;
  std::vector<BranchProfile> branches_;
  std::vector<std::string> branch_names_;
  std::unique_ptr<Loader> full_, shallow_;
};

}  // namespace deepcache
