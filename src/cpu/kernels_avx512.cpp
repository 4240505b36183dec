#include "cpu/kernel_loops.hpp"
#include "cpu/vector_avx512.hpp"

namespace deepcache::cpu {
namespace {

template <typename T>
constexpr Kernels<T> kKernels = with_loops<Avx512, T>({.max_block = 64,
                                                       .max_depth = 512,  // with the block, 128 KiB of weights
                                                       .panel = 0,
                                                       .multiply = multiply_by_brgemm,
                                                       .end_products = release_brgemm<T>});

}  // namespace

constinit const Kernels<float> kFloatKernelsAvx512 = kKernels<float>;
constinit const Kernels<c10::BFloat16> kBFloat16KernelsAvx512 = kKernels<c10::BFloat16>;

}  // namespace deepcache::cpu
