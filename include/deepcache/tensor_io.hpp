#pragma once

#include <torch/types.h>

#include <filesystem>

namespace deepcache {

/// Writes one tensor as `torch.save` does; Python reads it by `torch.load(file)`. The file is whole or absent.
/// @throws std::runtime_error if it can't be written.
void save_tensor(const torch::Tensor& tensor, const std::filesystem::path& file);

/// Reads one tensor, to the CPU, that `torch.save(tensor, file)` or `save_tensor` wrote.
/// @throws std::runtime_error naming the file if it is missing, damaged, or holds anything but a tensor.
torch::Tensor load_tensor(const std::filesystem::path& file);

}  // namespace deepcache
