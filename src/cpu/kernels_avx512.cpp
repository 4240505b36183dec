#include "cpu/kernel_loops.hpp"
#include "cpu/vector_avx512.hpp"

namespace deepcache::cpu {
namespace {

template <typename T>
constexpr Kernels<T> kKernels = with_loops<Avx512, T>(
    {.panel = kAvx512Panel, .max_depth = kAvx512Depth, .multiply = multiply_by_avx512, .end_products = [] {}});

}  // namespace

constinit const Kernels<float> kFloatKernelsAvx512 = kKernels<float>;
constinit const Kernels<c10::BFloat16> kBFloat16KernelsAvx512 = kKernels<c10::BFloat16>;
constinit const Kernels<c10::BFloat16> kBFloat16KernelsAmx = with_loops<Avx512, c10::BFloat16>(
    {.panel = kAmxPanel, .max_depth = kAmxDepth, .multiply = multiply_by_amx, .end_products = release_amx});

}  // namespace deepcache::cpu
