#include "cpu/kernels.hpp"

#include <ATen/Version.h>
#include <ATen/native/CPUBlas.h>

#include <algorithm>
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
    amx = avx512 && has_instructions("amx_bf16");
    float16 = avx512 && has_instructions("avx512_fp16");
  }
  bool avx2, avx512, bfloat16, amx, float16;
};

const Processor& processor() {
  static const Processor result;
  return result;
}

}  // namespace

bool has_kernels(torch::Dtype dtype) {
  return (dtype == torch::kFloat && processor().avx2) || (dtype == torch::kBFloat16 && processor().bfloat16);
}

bool is_emulated(torch::Dtype dtype) {
  return (dtype == torch::kBFloat16 && !processor().bfloat16) || (dtype == torch::kHalf && !processor().float16);
}

void multiply_by_amx(const Product& p, const c10::BFloat16* left, const c10::BFloat16* right, float* sums) {
  for (std::int64_t column = 0; column < p.columns; column += kAmxPanel, right += p.right_panel)
    at::native::cpublas::brgemm(p.rows, std::min(kAmxPanel, p.columns - column), p.depth, p.left_stride, p.right_stride,
                                p.sums_stride, p.adds, left, right, sums + column, true);
}
void release_amx() {
  at::native::cpublas::brgemm_release(true);
}

template <>
const Kernels<float>& kernels() {
  return processor().avx512 ? kFloatKernelsAvx512 : kFloatKernelsAvx2;
}
template <>
const Kernels<c10::BFloat16>& kernels() {
  return processor().amx ? kBFloat16KernelsAmx : kBFloat16KernelsAvx512;
}

}  // namespace deepcache::cpu
