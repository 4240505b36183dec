#include "deepcache/tensor_io.hpp"

#include <torch/serialize.h>

#include <string>
#include <string_view>
#include <vector>

#include "error.hpp"
#include "io/files.hpp"

namespace deepcache {

void save_tensor(const torch::Tensor& tensor, const std::filesystem::path& file) {
  const auto bytes = torch::pickle_save(tensor.detach().cpu().contiguous());
  write_file(file, {bytes.data(), bytes.size()});
}

torch::Tensor load_tensor(const std::filesystem::path& file) {
  const auto bytes = read_file(file);
  c10::IValue value;
  try {
    value = torch::pickle_load({bytes.begin(), bytes.end()});
  } catch (const std::exception&) {
    throw std::runtime_error(fmt::format("{} isn't a file that torch.save wrote", file.string()));
  }
  check_data(value.isTensor(), "{} must hold a single tensor, it holds {}", file.string(), value.tagKind());
  return value.toTensor();
}

}  // namespace deepcache
