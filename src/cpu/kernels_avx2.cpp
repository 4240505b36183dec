#include "cpu/kernel_loops.hpp"
#include "cpu/vector_avx2.hpp"

namespace deepcache::cpu {

constinit const Kernels<float> kFloatKernelsAvx2 = with_loops<Avx2, float>(
    {.panel = kAvx2Panel, .max_depth = kAvx2Depth, .multiply = multiply_by_avx2, .end_products = [] {}});

}  // namespace deepcache::cpu
