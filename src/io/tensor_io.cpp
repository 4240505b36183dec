#include "deepcache/tensor_io.hpp"

#include <caffe2/serialize/inline_container.h>
#include <torch/csrc/jit/serialization/import_read.h>
#include <torch/serialize.h>

#include <fstream>

#include "error.hpp"
#include "io/files.hpp"

namespace deepcache {

void save_tensor(const torch::Tensor& tensor, const std::filesystem::path& file) {
  const auto bytes = torch::pickle_save(tensor.detach().cpu().contiguous());
  write_file(file, {bytes.data(), bytes.size()});
}

torch::Tensor load_tensor(const std::filesystem::path& file) {
  auto stream = open_file(file);
  c10::IValue value;
  try {
    // torch::pickle_load does the same, but for the device.
    caffe2::serialize::PyTorchStreamReader reader(&stream);
    value = torch::jit::readArchiveAndTensors("data", "", "", std::nullopt, std::nullopt, torch::kCPU, reader);
  } catch (const c10::Error& error) {
    throw std::runtime_error(
        fmt::format("{} isn't a file that torch.save wrote: {}", file.string(), error.what_without_backtrace()));
  }
  check_data(value.isTensor(), "{} must hold a single tensor, it holds {}", file.string(), value.tagKind());
  return value.toTensor();
}

}  // namespace deepcache
