#pragma once

#include <torch/types.h>

#include <cstdint>
#include <vector>

/// Gaussian noise as diffusers' `randn_tensor` draws it: from LibTorch's CPU generator whatever the target device, so
/// that a seed gives bit for bit the noise of `torch.Generator("cpu").manual_seed(seed)` in Python on that machine.
///
///   deepcache::NoiseGenerator generator({42});
///   auto latents = scheduler.init_noise_sigma() * generator.randn({1, 4, 64, 64}, torch::kFloat);
///
/// Not for the noise of Python's generators on a GPU, which draw other numbers.
namespace deepcache {

/// Draws one after another, each going on where the last one ended.
class NoiseGenerator {
 public:
  /// One seed: every draw covers the whole batch, as with one generator in Python. Several: one generator for each
  /// batch item, as with a list of generators; item i is then the same in any batch.
  /// @throws std::invalid_argument if `seeds` is empty.
  explicit NoiseGenerator(const std::vector<std::uint64_t>& seeds);

  /// Standard normal values of shape `sizes` in the dtype and on the device of `options`. Copies of a generator share
  /// its state.
  /// @throws std::invalid_argument if there are several seeds, and `sizes[0]` isn't their number, or if the dtype isn't
  /// floating point.
  torch::Tensor randn(torch::IntArrayRef sizes, const torch::TensorOptions& options);

  /// What draws for the first `count` batch items only: their generators, or the one for all.
  /// @throws std::invalid_argument if there are several seeds, and fewer than that.
  NoiseGenerator first(std::int64_t count) const;

 private:
  std::vector<torch::Generator> generators_;
};

}  // namespace deepcache
