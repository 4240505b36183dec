#include "cpu/multiply_loops.hpp"
#include "cpu/vector_avx2.hpp"

namespace deepcache::cpu {

void multiply_by_avx2(const Product& product, const float* left, const float* right, float* sums) {
  multiply<FloatItems<Avx2, 6, kAvx2Depth, true>>(product, left, right, sums);
}

}  // namespace deepcache::cpu
