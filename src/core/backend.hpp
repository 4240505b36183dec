#pragma once

#include <ATen/core/ivalue.h>
#include <torch/types.h>

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "core/conditioning.hpp"
#include "deepcache/unet.hpp"

namespace deepcache {

/// What runs a UNet: whole, whole with the feature of a branch handed out, or shallow with that feature handed in.
/// Immutable to its users, who may share it between threads. Inputs and results are those of the UNet's `forward`.
/// `Conditioning` is what one step of a run leaves to the next, whatever inputs that has; empty at first.
class Backend {
 public:
  struct FullResult {
    c10::IValue output;
    torch::Tensor feature;
  };

  virtual ~Backend() = default;
  virtual c10::IValue run(std::vector<c10::IValue> inputs, Conditioning& conditioning) const = 0;
  virtual FullResult run_full(std::vector<c10::IValue> inputs, Conditioning& conditioning,
                              std::int64_t cache_branch_id) const = 0;
  virtual c10::IValue run_shallow(std::vector<c10::IValue> inputs, Conditioning& conditioning,
                                  const torch::Tensor& feature, std::int64_t cache_branch_id) const = 0;

  /// Makes ready what steps at this branch need, so that the first of them takes no longer than others.
  /// Throws std::invalid_argument if the network has this branch, but can't be cut there.
  virtual void prepare_branch(std::int64_t cache_branch_id) const = 0;

  /// Throws std::invalid_argument unless the inputs are those of the network's `forward` in number and types.
  virtual void check_inputs(const std::vector<c10::IValue>& inputs) const = 0;

  /// Of the inputs of the network's `forward`.
  virtual std::vector<std::string> input_names() const = 0;

  /// Names by cache_branch_id; as many as there are branches.
  virtual const std::vector<std::string>& branch_names() const = 0;
  virtual std::vector<BranchProfile> profile(const std::vector<c10::IValue>& inputs,
                                             const std::vector<std::int64_t>& branches) const = 0;
  virtual torch::Device device() const = 0;

  /// The same network with ControlNets in it, as `UNet::with_controlnets` says.
  virtual std::shared_ptr<const Backend> with_controlnets(const std::vector<torch::jit::Module>& controlnets) const = 0;
};

}  // namespace deepcache
