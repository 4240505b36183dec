#include "cpu/operators.hpp"

#include <gtest/gtest.h>
#include <torch/torch.h>

#include <array>
#include <cmath>
#include <optional>
#include <string>
#include <vector>

#include "cpu/packed_layers.hpp"
#include "expect_error.hpp"
#include "tensor_near.hpp"

namespace deepcache::cpu_operators_test {
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
        for (const auto scale : {std::optional<double>(), std::optional(0.3), std::optional(-0.3)}) {
          const auto exact = at::scaled_dot_product_attention(query.to(torch::kDouble), key.to(torch::kDouble),
                                                              value.to(torch::kDouble), std::nullopt, 0, false, scale);
          const auto score =
              std::abs(scale.value_or(1 / std::sqrt(dim))) * at::matmul(query, key.transpose(2, 3)).abs().max();
          const auto allowed = tolerance(dtype) * std::max(1.0, 0.1 * score.item<double>());  // a score is rounded too
          expect_exact(cpu::attention(query, key, value, scale), exact, allowed,
                       c10::str(query.sizes(), ", ", keys, " keys, ", dtype));
        }
      }
}

TEST(CpuAttention, EachWeightIsExactToRounding) {
  if (!cpu::has_kernels(torch::kFloat))
    GTEST_SKIP() << "this processor has no kernels: LibTorch's operator rounds more";
  constexpr std::int64_t kSize = 64;
  auto query = torch::zeros({1, 1, 1, kSize}), key = torch::zeros({1, 1, kSize, kSize});
  query.select(3, 0).fill_(1);
  key.select(3, 0).copy_(torch::arange(kSize, torch::kFloat) / -16);  // the scores, which no dtype rounds
  const auto value = torch::eye(kSize).view({1, 1, kSize, kSize});    // so that the result is the weights
  const auto exact = torch::softmax(key.select(3, 0).to(torch::kDouble).flatten(), 0);
  for (const auto dtype : {torch::kFloat, torch::kBFloat16}) {
    if (!cpu::has_kernels(dtype)) continue;
    const auto weights = cpu::attention(query.to(dtype), key.to(dtype), value.to(dtype), 1.0).flatten();
    const auto error = ((weights.to(torch::kDouble) - exact) / exact).abs().max().item<double>();
    EXPECT_LT(error, dtype == torch::kFloat ? 1e-6 : 5e-3) << dtype;  // bfloat16: rounded twice, by up to 2e-3
  }
}

TEST(CpuAttention, ScoresOfAnySize) {
  const auto value = torch::arange(6, torch::kFloat).view({1, 1, 3, 2});
  const auto query = torch::full({1, 1, 1, 2}, 1000.0);
  const auto key = torch::tensor({{1.0, 1.0}, {-1.0, -1.0}, {0.0, 0.0}}).to(torch::kFloat).view({1, 1, 3, 2});
  expect_tensor_near(cpu::attention(query, key, value, 1.0).flatten(), torch::tensor({0.0F, 1.0F}), 1e-6);
  expect_tensor_near(cpu::attention(-query, key, value, 1.0).flatten(), torch::tensor({2.0F, 3.0F}), 1e-6);
  for (const auto size : {1e4F, 1e6F, 1e8F, 1e12F, 1e16F}) {  // whose rounding would be a factor of any size
    const auto scores = size * torch::tensor({{1.0F, 1 / 3.0F}, {1.0F, 0.33F}, {-1.0F, 0.0F}}).view({1, 1, 3, 2});
    for (const auto sign : {1.0F, -1.0F}) {
      const auto exact = at::scaled_dot_product_attention(sign * query.to(torch::kDouble), scores.to(torch::kDouble),
                                                          value.to(torch::kDouble), std::nullopt, 0, false, 0.7);
      expect_tensor_near(cpu::attention(sign * query, scores, value, 0.7), exact.to(torch::kFloat), 1e-6);
    }
  }
  const auto huge = torch::tensor({{-1e30F, 0.0F}, {0.0F, 0.0F}, {-1e30F, 0.0F}}).view({1, 1, 3, 2});  // to -infinity
  expect_tensor_near(cpu::attention(1e30 * query, huge, value, 1.0).flatten(), torch::tensor({2.0F, 3.0F}), 1e-6);
}

TEST(CpuAttention, OfRowsThatShareMemory) {
  torch::manual_seed(0);
  const auto query = torch::randn({1, 2, 1, 8}).expand({1, 2, 5, 8}), key = torch::randn({1, 2, 7, 8});
  expect_tensor_near(cpu::attention(query, key, key, std::nullopt), at::scaled_dot_product_attention(query, key, key),
                     1e-6);
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
  const auto huge = cpu::geglu(torch::tensor({1.0F, 1.0F, 1e20F, -1e20F}).view({1, 4}));  // whose squares are infinite
  EXPECT_EQ(huge[0][0].item<float>(), 1e20F);
  EXPECT_EQ(huge[0][1].item<float>(), 0);
}

class CpuLayers : public testing::TestWithParam<torch::Dtype> {
 protected:
  void SetUp() override {
    torch::manual_seed(0);
    if (!cpu::has_kernels(GetParam())) GTEST_SKIP() << "this processor has no kernels for " << GetParam();
  }
  torch::Tensor random(const std::vector<std::int64_t>& shape) const { return torch::randn(shape).to(GetParam()); }
};

torch::Tensor exact(const torch::Tensor& tensor) {
  return tensor.to(torch::kDouble);
}

TEST_P(CpuLayers, LinearIsExactToRounding) {
  for (const auto& [rows, inputs, outputs] : {std::array<std::int64_t, 3>{1, 2, 1},
                                              {3, 10, 70},
                                              {300, 64, 64},
                                              {154, 768, 320},
                                              {129, 1100, 96},
                                              {2, 1280, 4},
                                              {7, 514, 48}}) {
    const auto input = random({rows, inputs}), weight = random({outputs, inputs}), bias = random({outputs}),
               added = random({rows, outputs});
    const auto packed = cpu::pack_weight(weight);
    const auto product = at::linear(exact(input), exact(weight));
    const auto what = c10::str(rows, " x ", inputs, " x ", outputs, ", ", GetParam());
    expect_exact(cpu::linear(input, packed, std::nullopt, outputs), product, tolerance(GetParam()), what);
    expect_exact(cpu::linear(input, packed, bias, outputs, added), product + exact(bias) + exact(added),
                 tolerance(GetParam()), what);
    expect_exact(cpu::linear(input, packed, bias, outputs, added[0]), product + exact(bias) + exact(added[0]),
                 2 * tolerance(GetParam()), what + ", one row added to all");  // rounded twice
    expect_exact(cpu::linear(input.view({1, rows, inputs}).transpose(0, 1), packed, bias, outputs),
                 (product + exact(bias)).unsqueeze(1), tolerance(GetParam()), what + ", not contiguous");
  }
  EXPECT_EQ(cpu::linear(random({0, 10}), cpu::pack_weight(random({6, 10})), std::nullopt, 6).sizes(),
            (std::vector<std::int64_t>{0, 6}));
}

TEST_P(CpuLayers, ConvolutionIsExactToRounding) {
  struct Case {
    std::int64_t inputs, outputs;
    std::vector<std::int64_t> size, kernel, stride, padding;
  };
  for (const auto& [inputs, outputs, size, kernel, stride, padding] : {Case{4, 64, {9, 7}, {3, 3}, {1, 1}, {1, 1}},
                                                                       {64, 4, {16, 16}, {3, 3}, {1, 1}, {1, 1}},
                                                                       {96, 96, {8, 8}, {3, 3}, {1, 1}, {1, 1}},
                                                                       {16, 20, {13, 6}, {3, 3}, {2, 2}, {1, 1}},
                                                                       {16, 32, {13, 6}, {3, 3}, {2, 1}, {0, 1}},
                                                                       {8, 16, {5, 9}, {1, 3}, {1, 1}, {0, 1}},
                                                                       {8, 16, {5, 9}, {5, 1}, {1, 3}, {2, 0}},
                                                                       {600, 16, {4, 4}, {3, 3}, {1, 1}, {1, 1}},
                                                                       {16, 16, {1, 1}, {3, 3}, {1, 1}, {1, 1}},
                                                                       {16, 16, {2, 1}, {3, 3}, {1, 1}, {4, 4}},
                                                                       {16, 130, {6, 6}, {1, 1}, {1, 1}, {0, 0}},
                                                                       {16, 16, {6, 6}, {1, 1}, {2, 2}, {0, 0}},
                                                                       {6, 10, {3, 400}, {3, 3}, {1, 1}, {1, 1}},
                                                                       {64, 64, {4, 4}, {3, 3}, {1, 1}, {1, 1}},
                                                                       {70, 100, {6, 9}, {3, 3}, {1, 1}, {0, 0}},
                                                                       {64, 72, {5, 3}, {3, 3}, {1, 1}, {4, 2}},
                                                                       {200, 72, {64, 48}, {3, 3}, {1, 1}, {1, 1}}}) {
    const auto input = random({2, inputs, size[0], size[1]}), weight = random({outputs, inputs, kernel[0], kernel[1]}),
               bias = random({outputs});
    const auto expected = at::conv2d(exact(input), exact(weight), exact(bias), stride, padding);
    const auto what = c10::str(weight.sizes(), " of ", input.sizes(), ", ", GetParam());
    const auto packed = cpu::pack_weight(weight);
    for (const auto format : {torch::MemoryFormat::Contiguous, torch::MemoryFormat::ChannelsLast}) {
      const auto picture = input.contiguous(format);
      const auto added = random(expected.sizes().vec()).contiguous(format), of_channels = random({2, outputs, 1, 1});
      const auto convolve = [&](const std::optional<torch::Tensor>& other) {
        return cpu::convolution(picture, packed, bias, outputs, kernel, stride, padding, other);
      };
      const auto output = convolve(std::nullopt);
      EXPECT_TRUE(output.is_contiguous(torch::MemoryFormat::ChannelsLast)) << what;
      expect_exact(output, expected, tolerance(GetParam()), what);
      expect_exact(convolve(added), expected + exact(added), 2 * tolerance(GetParam()), what + ", added to");
      expect_exact(convolve(of_channels), expected + exact(of_channels), 2 * tolerance(GetParam()),
                   what + ", channels");
      expect_exact(convolve(bias[0]), expected + exact(bias[0]), 2 * tolerance(GetParam()), what + ", a number");
    }
  }
}

TEST_P(CpuLayers, UpsamplingAndConvolutionAreExactToRounding) {
  struct Case {
    std::int64_t inputs, outputs;
    std::vector<std::int64_t> from, to;
  };
  for (const auto& [inputs, outputs, from, to] : {Case{64, 64, {8, 8}, {16, 16}},
                                                  {320, 72, {4, 6}, {8, 12}},
                                                  {16, 20, {5, 9}, {9, 17}},
                                                  {16, 20, {5, 9}, {10, 17}},
                                                  {16, 20, {5, 9}, {9, 18}},
                                                  {32, 10, {1, 1}, {1, 1}},
                                                  {32, 10, {1, 1}, {2, 2}},
                                                  {6, 4, {2, 130}, {4, 260}},
                                                  {1100, 16, {4, 4}, {8, 8}},
                                                  {16, 20, {5, 9}, {15, 27}} /* not doubled */,
                                                  {16, 20, {5, 9}, {10, 9}},
                                                  {16, 20, {5, 9}, {4, 3}}}) {
    const auto input = random({2, inputs, from[0], from[1]}), weight = random({outputs, inputs, 3, 3}),
               bias = random({outputs});
    const auto packed = cpu::pack_weight(weight, true);
    const auto doubled = at::upsample_nearest2d(exact(input), to);
    for (const auto format : {torch::MemoryFormat::Contiguous, torch::MemoryFormat::ChannelsLast}) {
      const auto output = cpu::upsample_convolution(input.contiguous(format), packed, bias, outputs, to);
      EXPECT_TRUE(output.is_contiguous(torch::MemoryFormat::ChannelsLast));
      expect_exact(output, at::conv2d(doubled, exact(weight), exact(bias), 1, 1), 2 * tolerance(GetParam()),
                   c10::str(weight.sizes(), " of ", from, " to ", to, ", ", GetParam()));
    }
  }
  const auto packed = cpu::pack_weight(random({6, 10, 3, 3}), true);
  const auto picture = random({1, 10, 3, 5});
  EXPECT_TRUE(torch::equal(cpu::upsample_convolution(picture, packed, std::nullopt, 6, std::nullopt),
                           cpu::upsample_convolution(picture, packed, std::nullopt, 6, {{6, 10}})));
  EXPECT_EQ(cpu::upsample_convolution(random({0, 10, 2, 2}), packed, std::nullopt, 6, {{4, 4}}).sizes(),
            (std::vector<std::int64_t>{0, 6, 4, 4}));
}

TEST_P(CpuLayers, RefuseOtherInputs) {
  const auto packed = cpu::pack_weight(random({6, 10})), kernels = cpu::pack_weight(random({6, 10, 3, 3}));
  const auto convolve = [&](const torch::Tensor& input) {
    return cpu::convolution(input, kernels, std::nullopt, 6, {3, 3}, {1, 1}, {0, 0});
  };
  expect_error<c10::Error>(
      [&] {
        cpu::linear(random({2, 8}), packed, std::nullopt, 6);
      },
      {"10 features", "got 8: [2, 8]"});
  expect_error<c10::Error>(
      [&] {
        cpu::linear(torch::zeros({2, 10}, torch::kDouble), packed, std::nullopt, 6);
      },
      {"computes in", "Double"});
  expect_error<c10::Error>([&] { convolve(random({1, 8, 4, 4})); }, {"10 channels", "got 8"});
  expect_error<c10::Error>([&] { convolve(random({10, 4, 4})); }, {"[B, C, H, W]", "[10, 4, 4]"});
  expect_error<c10::Error>([&] { convolve(random({1, 10, 2, 4})); }, {"larger than its input"});
  const auto upsample = [&](const torch::Tensor& input) {
    return cpu::upsample_convolution(input, kernels, std::nullopt, 6, {{8, 8}});
  };
  expect_error<c10::Error>([&] { upsample(random({1, 8, 4, 4})); }, {"10 channels", "got 8"});
  expect_error<c10::Error>([&] { upsample(random({10, 4, 4})); }, {"[B, C, H, W]", "[10, 4, 4]"});
}

TEST_P(CpuLayers, DoNotDependOnThreads) {
  const auto packed = cpu::pack_weight(random({96, 64, 3, 3}));
  const auto input = random({2, 64, 17, 9});
  const auto threads = at::get_num_threads();
  const auto convolve = [&](int count) {
    at::set_num_threads(count);
    return cpu::convolution(input, packed, std::nullopt, 96, {3, 3}, {1, 1}, {1, 1});
  };
  const auto expected = convolve(1);
  EXPECT_TRUE(torch::equal(convolve(3), expected));
  at::set_num_threads(threads);
}

INSTANTIATE_TEST_SUITE_P(Dtypes, CpuLayers, testing::Values(torch::kFloat, torch::kBFloat16),
                         [](const auto& test) { return test.param == torch::kFloat ? "float32" : "bfloat16"; });

TEST(CpuLayersThatStay, OddInputsInBfloat16AndOtherTypes) {
  EXPECT_FALSE(cpu::can_pack(torch::zeros({4, 3, 3, 3}, torch::kBFloat16)));
  EXPECT_FALSE(cpu::can_pack(torch::zeros({4, 4}, torch::kDouble)));
  EXPECT_FALSE(cpu::can_pack(torch::zeros({4, 4, 3})));
  EXPECT_FALSE(cpu::can_pack(torch::zeros({0, 4})));
  EXPECT_FALSE(cpu::can_pack(torch::zeros({4, 4}, torch::kMeta)));
}

}  // namespace
}  // namespace deepcache::cpu_operators_test
