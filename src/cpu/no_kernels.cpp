#include "cpu/operators.hpp"
#include "cpu/packed_layers.hpp"

// In the place of the other files of this folder, on processors that they aren't for.
namespace deepcache::cpu {

bool has_kernels(torch::Dtype) {
  return false;
}

bool is_emulated(torch::Dtype) {
  return false;
}

bool can_pack(const torch::Tensor&) {
  return false;
}

torch::Tensor pack_weight(const torch::Tensor& weight, bool) {
  return weight;
}

void register_operators() {}

}  // namespace deepcache::cpu
