#include "cpu/kernel_loops.hpp"
#include "cpu/vector_avx2.hpp"

namespace deepcache::cpu {

constinit const Kernels<float> kFloatKernelsAvx2 = with_loops<Avx2, float>({.max_block = kAvx2Columns,
                                                                            .max_depth = kAvx2Depth,
                                                                            .panel = kAvx2Columns,
                                                                            .multiply = multiply_by_avx2,
                                                                            .end_products = [] {}});

}  // namespace deepcache::cpu
