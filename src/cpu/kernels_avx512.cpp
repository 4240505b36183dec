#include "cpu/kernel_loops.hpp"
#include "cpu/vector_avx512.hpp"

namespace deepcache::cpu {
namespace {

template <typename T>
constexpr Kernels<T> kKernels{.max_block = 64,
                              .max_depth = 512,  // with the block, 128 KiB of weights
                              .multiply = multiply_by_brgemm,
                              .end_products = release_brgemm<T>,
                              .softmax_block = softmax_block<Avx512, T>,
                              .scale_row = scale_row<Avx512, T>,
                              .add_bias = add_bias<Avx512, T>,
                              .add_moments = add_moments<Avx512, T>,
                              .apply = apply<Avx512, T>,
                              .gated_gelu = gated_gelu<Avx512, T>,
                              .winograd_input = winograd_input<Avx512, T>,
                              .winograd_weight = winograd_weight<Avx512, T>,
                              .winograd_output = winograd_output<Avx512, T>};

}  // namespace

constinit const Kernels<float> kFloatKernelsAvx512 = kKernels<float>;
constinit const Kernels<c10::BFloat16> kBFloat16KernelsAvx512 = kKernels<c10::BFloat16>;

}  // namespace deepcache::cpu
