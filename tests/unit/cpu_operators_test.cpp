#include "cpu/operators.hpp"

#include <gtest/gtest.h>
#include <torch/torch.h>

#include <cmath>
#include <optional>
#include <string>
#include <vector>

#include "tensor_near.hpp"

namespace deepcache {
namespace {

/// Of numbers whose exact value is known; a bfloat16 has 8 bits.
double tolerance(torch::Dtype dtype) {
  return dtype == torch::kFloat ? 1e-6 : 4e-3;
}

const std::vector kDtypes{torch::kFloat, torch::kBFloat16, torch::kHalf};

/// By norm; `exact` is float64's.
void expect_exact(const torch::Tensor& result, const torch::Tensor& exact, double allowed, const std::string& what) {
  ASSERT_EQ(result.sizes(), exact.sizes()) << what;
  EXPECT_LT(((result.to(torch::kDouble) - exact).norm() / exact.norm()).item<double>(), allowed) << what;
}

TEST(CpuAttention, IsExactToRounding) {
  torch::manual_seed(0);
  struct Case {
    std::int64_t batch, heads, queries, keys, dim;
  };
  for (const auto& [batch, heads, queries, keys, dim] : {Case{2, 8, 64, 64, 40},
                                                         {1, 1, 1, 1, 2},
                                                         {1, 3, 65, 77, 24},
                                                         {2, 2, 7, 1100, 8},
                                                         {1, 2, 130, 513, 160},
                                                         {1, 5, 9, 9, 7} /* an odd one */})
    for (const auto dtype : kDtypes)
      for (const bool heads_apart : {true, false}) {
        const auto make = [&](std::int64_t length) {  // as linear layers give it, or not
          return heads_apart ? torch::randn({batch, length, heads * dim})
                                   .to(dtype)
                                   .view({batch, length, heads, dim})
                                   .transpose(1, 2)
                             : torch::randn({batch, heads, length, dim}).to(dtype);
        };
        const auto query = 3 * make(queries), key = 3 * make(keys), value = make(keys);  // some scores are large
        for (const auto scale : {std::optional<double>(), std::optional(0.3)}) {
          const auto exact = at::scaled_dot_product_attention(query.to(torch::kDouble), key.to(torch::kDouble),
                                                              value.to(torch::kDouble), std::nullopt, 0, false, scale);
          const auto score = scale.value_or(1 / std::sqrt(dim)) * at::matmul(query, key.transpose(2, 3)).abs().max();
          const auto allowed = tolerance(dtype) * std::max(1.0, 0.1 * score.item<double>());  // a score is rounded too
          expect_exact(cpu::attention(query, key, value, scale), exact, allowed,
                       c10::str(query.sizes(), ", ", keys, " keys, ", dtype));
        }
      }
}

TEST(CpuAttention, ScoresOfAnySize) {
  const auto value = torch::arange(6, torch::kFloat).view({1, 1, 3, 2});
  const auto query = torch::full({1, 1, 1, 2}, 1000.0);
  const auto key = torch::tensor({{1.0, 1.0}, {-1.0, -1.0}, {0.0, 0.0}}).to(torch::kFloat).view({1, 1, 3, 2});
  expect_tensor_near(cpu::attention(query, key, value, 1.0).flatten(), torch::tensor({0.0F, 1.0F}), 1e-6);
  expect_tensor_near(cpu::attention(-query, key, value, 1.0).flatten(), torch::tensor({2.0F, 3.0F}), 1e-6);
}

TEST(CpuGroupNorm, IsExactToRounding) {
  torch::manual_seed(0);
  struct Case {
    std::vector<std::int64_t> shape;
    std::int64_t num_groups;
  };
  for (const auto& [shape, num_groups] : {Case{{2, 32, 8, 8}, 8},
                                          {{1, 320, 32, 32}, 32},
                                          {{3, 6, 5, 7}, 3},
                                          {{2, 64, 1, 1}, 2},
                                          {{1, 36, 3, 1}, 1},
                                          {{2, 8, 3, 4, 5}, 4}})
    for (const auto dtype : kDtypes)
      for (const bool channels_last : {true, false})
        for (const bool silu : {true, false})
          for (const bool affine : {true, false}) {
            auto input = (3 * torch::randn(shape) + 5).to(dtype);  // the mean isn't 0
            if (channels_last && shape.size() == 4) input = input.contiguous(torch::MemoryFormat::ChannelsLast);
            std::optional<torch::Tensor> weight, bias, exact_weight, exact_bias;
            if (affine) {
              weight = torch::randn({shape[1]}).to(dtype);
              bias = torch::randn({shape[1]}).to(dtype);
              exact_weight = weight->to(torch::kDouble);
              exact_bias = bias->to(torch::kDouble);
            }
            auto exact = at::group_norm(input.to(torch::kDouble), num_groups, exact_weight, exact_bias, 1e-5);
            if (silu) exact = at::silu(exact);
            expect_exact(cpu::group_norm(input, num_groups, weight, bias, 1e-5, silu), exact, tolerance(dtype),
                         c10::str(input.sizes(), ", ", dtype, silu ? ", SiLU" : ""));
          }
}

TEST(CpuGroupNorm, DoesNotDependOnThreads) {
  const auto input = torch::randn({2, 64, 33, 17}).contiguous(torch::MemoryFormat::ChannelsLast);
  const auto threads = at::get_num_threads();
  at::set_num_threads(1);
  const auto expected = cpu::group_norm(input, 32, std::nullopt, std::nullopt, 1e-5, true);
  at::set_num_threads(3);
  EXPECT_TRUE(torch::equal(cpu::group_norm(input, 32, std::nullopt, std::nullopt, 1e-5, true), expected));
  at::set_num_threads(threads);
}

TEST(CpuGeglu, IsExactToRounding) {
  torch::manual_seed(0);
  for (const auto& shape : {std::vector<std::int64_t>{2, 5, 64}, {1, 20}, {3, 1, 70}})
    for (const auto dtype : kDtypes) {
      const auto input = (3 * torch::randn(shape)).to(dtype);
      const auto halves = input.to(torch::kDouble).chunk(2, -1);
      expect_exact(cpu::geglu(input), halves[0] * at::gelu(halves[1]), tolerance(dtype),
                   c10::str(input.sizes(), ", ", dtype));
    }
  const auto tails = torch::tensor({1.0F, 1.0F, 1.0F, 1.0F, -30.0F, 30.0F, -5.0F, 0.0F}).view({1, 8});
  const auto gelu = cpu::geglu(tails);
  EXPECT_EQ(gelu[0][0].item<float>(), 0);
  EXPECT_EQ(gelu[0][1].item<float>(), 30);
  EXPECT_NEAR(gelu[0][2].item<float>(), -5 * 0.5 * std::erfc(5 / std::sqrt(2.0)), 1e-6);
  EXPECT_EQ(gelu[0][3].item<float>(), 0);
}

}  // namespace
}  // namespace deepcache
