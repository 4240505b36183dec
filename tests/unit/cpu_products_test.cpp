#include <gtest/gtest.h>
#include <torch/torch.h>

#include <string>
#include <vector>

#include "cpu/kernels.hpp"
#include "cpu/operators.hpp"
#include "cpu/parallel.hpp"

// Of each kind that this processor can run, whichever it would use.
namespace deepcache::cpu_products_test {
namespace {

/// [rows, columns] in panels, as cpu::Product has it; what fills up the last one is NaN.
template <typename T>
torch::Tensor in_panels(const torch::Tensor& matrix, std::int64_t panel) {
  const auto rows = matrix.size(0), columns = matrix.size(1), count = cpu::divide_up(columns, panel);
  auto padded = torch::full({rows, count * panel}, NAN, matrix.options());
  padded.narrow(1, 0, columns).copy_(matrix);
  const std::int64_t together = sizeof(T) == 2 ? 2 : 1;
  return padded.view({rows / together, together, count, panel}).permute({2, 0, 3, 1}).contiguous();
}

template <typename T>
void expect_exact(const cpu::Kernels<T>& kernels, torch::Dtype dtype, const std::string& what) {
  torch::manual_seed(0);
  struct Case {
    std::int64_t rows, columns, depth;
  };
  for (const auto& [rows, columns, depth] : {Case{1, 1, 2},
                                             {14, 32, 64},
                                             {15, 40, 80},
                                             {27, 16, 30},
                                             {40, 130, 1100},
                                             {29, 8, 514},
                                             {3, 150, 16},
                                             {60, 160, 6}})
    for (const bool adds : {false, true}) {
      // Wider than what is multiplied, as parts of a matrix are.
      const torch::Tensor left = torch::randn({rows, depth + 6}).to(dtype),
                          right = torch::randn({depth, columns}).to(dtype);
      const torch::Tensor before = torch::randn({rows, columns + 5});
      torch::Tensor sums = before.clone();
      const torch::Tensor packed = in_panels<T>(right, kernels.panel);
      kernels.multiply({.rows = rows,
                        .columns = columns,
                        .depth = depth,
                        .left_stride = depth + 6,
                        .right_stride = kernels.panel,
                        .right_panel = depth * kernels.panel,
                        .sums_stride = columns + 5,
                        .adds = adds},
                       left.const_data_ptr<T>(), packed.const_data_ptr<T>(), sums.mutable_data_ptr<float>());
      kernels.end_products();
      torch::Tensor exact = at::matmul(left.narrow(1, 0, depth).to(torch::kDouble), right.to(torch::kDouble));
      if (adds) exact += before.narrow(1, 0, columns);
      const torch::Tensor error = (sums.narrow(1, 0, columns) - exact).norm() / exact.norm();
      EXPECT_LT(error.item<double>(), 1e-6) << what << ": " << rows << " x " << depth << " x " << columns;
      EXPECT_TRUE(torch::equal(sums.narrow(1, columns, 5), before.narrow(1, columns, 5))) << what << ": beside";
    }
}

TEST(CpuProducts, AreExactToRoundingWithAvx2) {
  if (!cpu::has_kernels(torch::kFloat)) GTEST_SKIP() << "this processor has no AVX2";
  expect_exact(cpu::kFloatKernelsAvx2, torch::kFloat, "float32");
}

TEST(CpuProducts, AreExactToRoundingWithAvx512) {
  if (!cpu::has_kernels(torch::kBFloat16)) GTEST_SKIP() << "this processor has no avx512_bf16";
  expect_exact(cpu::kFloatKernelsAvx512, torch::kFloat, "float32");
  expect_exact(cpu::kBFloat16KernelsAvx512, torch::kBFloat16, "bfloat16");
}

// LibTorch computes these with AVX-512 where there is no AMX.
TEST(CpuProducts, AreExactToRoundingWithAmx) {
  if (!cpu::has_kernels(torch::kBFloat16)) GTEST_SKIP() << "this processor has no avx512_bf16";
  expect_exact(cpu::kBFloat16KernelsAmx, torch::kBFloat16, "bfloat16");
}

}  // namespace
}  // namespace deepcache::cpu_products_test
