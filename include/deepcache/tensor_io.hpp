#pragma once

#include <torch/types.h>

#include <filesystem>

/// Tensors in files that Python reads and writes, such as latents that two programs begin with.
///
///   deepcache::save_tensor(result.latents, "latents.pt");           // torch.load("latents.pt") in Python
///   auto latents = deepcache::load_tensor("latents.pt").to(device);
///
/// Not for weights, which are in model packages, nor for several tensors in a file.
namespace deepcache {

/// Writes one tensor as `torch.save` does; Python reads it by `torch.load(file)`. The file is whole or absent.
/// @throws std::runtime_error if it can't be written.
void save_tensor(const torch::Tensor& tensor, const std::filesystem::path& file);

/// Reads one tensor, to the CPU, that `torch.save(tensor, file)` or `save_tensor` wrote.
/// @throws std::runtime_error naming the file if it is missing, damaged, or holds anything but a tensor.
torch::Tensor load_tensor(const std::filesystem::path& file);

}  // namespace deepcache
