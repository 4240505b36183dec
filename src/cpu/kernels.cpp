#include "cpu/kernels.hpp"

#include <ATen/Version.h>
#include <ATen/native/CPUBlas.h>

#include <string>

#include "cpu/operators.hpp"
#include "cpu/processor.hpp"

namespace deepcache::cpu {
namespace {

struct Processor {
  Processor() {
    const auto capability = at::get_cpu_capability();
    avx512 = capability == "AVX512";
    avx2 = avx512 || capability == "AVX2";
    bfloat16 = avx512 && has_instructions("avx512_bf16");
    float16 = avx512 && has_instructions("avx512_fp16");
  }
  bool avx2, avx512, bfloat16, float16;
};

const Processor& processor() {
  static const Processor result;
  return result;
}

template <typename T>
void brgemm(const Product& p, const T* left, const T* right, float* sums) {
  at::native::cpublas::brgemm(p.rows, p.columns, p.depth, p.left_stride, p.right_stride, p.sums_stride, p.adds, left,
                              right, sums, sizeof(T) == 2);
}

}  // namespace

bool has_kernels(torch::Dtype dtype) {
  return (dtype == torch::kFloat && processor().avx2) || (dtype == torch::kBFloat16 && processor().bfloat16);
}

bool is_emulated(torch::Dtype dtype) {
  return (dtype == torch::kBFloat16 && !processor().bfloat16) || (dtype == torch::kHalf && !processor().float16);
}

void multiply_by_brgemm(const Product& product, const float* left, const float* right, float* sums) {
  brgemm(product, left, right, sums);
}
void multiply_by_brgemm(const Product& product, const c10::BFloat16* left, const c10::BFloat16* right, float* sums) {
  brgemm(product, left, right, sums);
}

template <typename T>
void release_brgemm() {
  at::native::cpublas::brgemm_release(sizeof(T) == 2);
}
template void release_brgemm<float>();
template void release_brgemm<c10::BFloat16>();

template <>
const Kernels<float>& kernels() {
  return processor().avx512 ? kFloatKernelsAvx512 : kFloatKernelsAvx2;
}
template <>
const Kernels<c10::BFloat16>& kernels() {
  return kBFloat16KernelsAvx512;
}

}  // namespace deepcache::cpu
