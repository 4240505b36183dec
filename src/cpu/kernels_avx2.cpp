#include "cpu/kernel_loops.hpp"
#include "cpu/vector_avx2.hpp"

namespace deepcache::cpu {

constinit const Kernels<float> kFloatKernelsAvx2{.max_block = kAvx2Columns,
                                                 .max_depth = kAvx2Depth,
                                                 .multiply = multiply_by_avx2,
                                                 .end_products = [] {},
                                                 .softmax_block = softmax_block<Avx2, float>,
                                                 .scale_row = scale_row<Avx2, float>,
                                                 .add_bias = add_bias<Avx2, float>,
                                                 .add_moments = add_moments<Avx2, float>,
                                                 .apply = apply<Avx2, float>,
                                                 .gated_gelu = gated_gelu<Avx2, float>,
                                                 .winograd_input = winograd_input<Avx2, float>,
                                                 .winograd_weight = winograd_weight<Avx2, float>,
                                                 .winograd_output = winograd_output<Avx2, float>};

}  // namespace deepcache::cpu
