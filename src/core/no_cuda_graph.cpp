#include "core/recorder.hpp"
#include "error.hpp"

// In the place of cuda_graph.cpp, where LibTorch has no CUDA.
namespace deepcache {

std::unique_ptr<Recorder> make_recorder(torch::Device device) {
  throw std::invalid_argument(fmt::format(
      "cuda_graphs must be false unless LibTorch has CUDA and the device is \"cuda\"; this one has none, got \"{}\"",
      device.str()));
}

}  // namespace deepcache
