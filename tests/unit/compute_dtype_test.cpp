#include <gtest/gtest.h>
#include <torch/torch.h>

#include <algorithm>
#include <functional>

#include "core/cast_graph.hpp"
#include "core/torchscript_backend.hpp"
#include "cpu/operators.hpp"
#include "deepcache/helper.hpp"
#include "deepcache/logging.hpp"
#include "deepcache/stable_diffusion.hpp"
#include "expect_error.hpp"
#include "networks.hpp"

namespace deepcache::compute_dtype_test {
namespace {

const std::filesystem::path kPackages = std::filesystem::path(DEEPCACHE_TEST_DATA) / "packages";

UNet computing_in(torch::Dtype dtype, const std::string& package = "sd1",
                  std::optional<torch::Dtype> stored = torch::kFloat) {
  return UNet::load(unet_file(package), {.dtype = stored, .compute_dtype = dtype});
}

torch::Tensor run(const UNet& unet, const std::vector<c10::IValue>& inputs = unet_inputs()) {
  return first_tensor(unet.forward(inputs));
}

double difference(const torch::Tensor& actual, const torch::Tensor& expected) {
  return ((actual.to(torch::kDouble) - expected.to(torch::kDouble)).norm() / expected.to(torch::kDouble).norm())
      .item<double>();
}

TEST(ComputeDtype, HalfTypesAreNearFloat32) {
  const auto expected = run(test_unet());
  for (const auto& [dtype, allowed] : {std::pair{torch::kBFloat16, 0.03}, {torch::kHalf, 0.004}}) {
    const auto actual = run(computing_in(dtype));
    EXPECT_EQ(actual.scalar_type(), torch::kFloat) << "as it was traced";
    const auto apart = difference(actual, expected);
    EXPECT_LT(apart, allowed) << dtype;
    EXPECT_GT(apart, 1e-5) << dtype << ": it really computed in it";
  }
  EXPECT_TRUE(torch::equal(run(computing_in(torch::kFloat)), expected));
}

TEST(ComputeDtype, TimestepsStayFine) {  // bfloat16 would make 1000 of 999
  const auto unet = computing_in(torch::kBFloat16);
  auto inputs = unet_inputs();
  inputs[1] = torch::tensor(999.0F);
  const auto one = run(unet, inputs);
  inputs[1] = torch::tensor(1000.0F);
  EXPECT_FALSE(torch::equal(run(unet, inputs), one));
}

TEST(ComputeDtype, WhatWasTracedInAHalfTypeRunsInFloat32) {
  auto inputs = unet_inputs();
  for (auto& input : inputs)
    if (input.toTensor().dim() > 0) input = input.toTensor().to(torch::kBFloat16);
  const auto in_float32 = run(computing_in(torch::kFloat, "sd1_bfloat16", std::nullopt), inputs);
  EXPECT_EQ(in_float32.scalar_type(), torch::kBFloat16);
  const auto expected = run(test_unet());  // the same network, but for its weights' rounding
  EXPECT_LT(difference(in_float32, expected), difference(run(UNet::load(unet_file("sd1_bfloat16")), inputs), expected));
}

TEST(ComputeDtype, CachedStepsEqualFullOnes) {
  const auto unet = computing_in(torch::kBFloat16);
  const auto expected = run(unet);
  const auto profiles = unet.profile(unet_inputs());
  for (std::int64_t branch = 0; branch < unet.num_branches(); ++branch) {
    Helper helper(unet);
    helper.set_params({.cache_interval = 2, .cache_branch_id = branch});
    helper.enable();
    EXPECT_TRUE(torch::equal(run(unet), expected)) << "full, branch " << branch;
    EXPECT_TRUE(torch::equal(run(unet), expected)) << "cached, branch " << branch;
    const auto stats = helper.stats();
    EXPECT_EQ(stats.cached_steps, 1);
    EXPECT_EQ(stats.cache_bytes, 2 * c10::multiply_integers(profiles[static_cast<std::size_t>(branch)].feature_shape));
  }
}

TEST(ComputeDtype, ControlNetsComputeInItToo) {
  const auto file = kPackages / "controlnet_sd1/controlnet/model.pt";
  auto inputs = unet_inputs();
  inputs.emplace_back(torch::rand({1, 3, 64, 64}));
  inputs.emplace_back(1.0);
  const auto expected = run(test_unet().with_controlnet_files({file}, torch::kFloat), inputs);
  const auto actual = run(computing_in(torch::kBFloat16).with_controlnet_files({file}, torch::kFloat), inputs);
  EXPECT_LT(difference(actual, expected), 0.03);
}

TEST(ComputeDtype, OfEveryKindOfUNet) {
  const std::vector<std::pair<std::string, std::vector<c10::IValue>>> networks{
      {"sdxl",
       {torch::randn({1, 4, 8, 8}), torch::tensor(500), torch::randn({1, 24, 80}), torch::randn({1, 40}),
        torch::randn({1, 6})}},
      {"ddpm", {torch::randn({1, 3, 16, 16}), torch::tensor(500)}},
      {"svd", {torch::randn({1, 3, 8, 8, 8}), torch::tensor(1.6F), torch::randn({1, 1, 24}), torch::rand({1, 3})}},
      {"ldm", {torch::randn({1, 3, 16, 16}), torch::tensor(500), torch::randn({1, 1, 16})}},
  };
  for (const auto& [package, inputs] : networks) {
    const auto expected = UNet::load(unet_file(package), torch::kCPU, torch::kFloat);
    EXPECT_LT(difference(run(computing_in(torch::kBFloat16, package), inputs), run(expected, inputs)), 0.05) << package;
  }
}

TEST(ComputeDtype, PipelinesKeepTheirLatentsFine) {
  const auto folder = kPackages / "one_layer";
  auto pipe = StableDiffusionPipeline::load(folder),
       fast = StableDiffusionPipeline::load(folder, {.compute_dtype = torch::kBFloat16});
  const StableDiffusionParams params{.num_inference_steps = 4, .guidance_scale = 1.0, .seeds = {1}};
  const auto expected = pipe("a cat", params), actual = fast("a cat", params);
  EXPECT_EQ(actual.latents.scalar_type(), expected.latents.scalar_type());
  EXPECT_LT(difference(actual.latents, expected.latents), 0.05);
  EXPECT_LT((actual.images - expected.images).abs().mean().item<double>(), 0.05);
  EXPECT_FALSE(torch::equal(actual.images, expected.images));
}

TEST(ComputeDtype, OfLayersThatAreWrittenOtherwise) {
  const auto module = make_module(R"(
    def forward(self, x, timestep):
        h = torch.conv2d(x, self.weight)
        h = torch._convolution_mode(h, self.weight, None, [1, 1], "same", [1, 1], 1)
        flat = h.flatten(2)
        mix = torch.matmul(flat.transpose(1, 2), self.weight[:, :, 0, 0])
        mix = torch.addmm(self.weight[0, :, 0, 0], mix[0], self.weight[:, :, 0, 0])[None]
        scores = torch.baddbmm(torch.empty([1, flat.size(2), flat.size(2)], dtype=6), mix, mix.transpose(1, 2), beta=0)
        h = torch.bmm(torch.softmax(scores, -1), mix).transpose(1, 2).reshape(h.size())
        return torch.cat([h, x], 1), torch.arange(3)
  )");
  const auto x = torch::randn({1, 4, 4, 4});
  auto run_module = module;
  const auto expected = first_tensor(run_module.forward({x, x}));
  Conditioning unused;
  const auto output = TorchScriptBackend(module, std::nullopt, torch::kBFloat16).run({x, x}, unused);
  EXPECT_LT(difference(first_tensor(output), expected), 0.03);
  EXPECT_GT(difference(first_tensor(output), expected), 1e-5);
  EXPECT_EQ(first_tensor(output).scalar_type(), torch::kFloat);
  EXPECT_TRUE(output.toTupleRef().elements()[1].toTensor().equal(torch::arange(3)));  // not what layers compute
}

TEST(ComputeDtype, OtherTypesAreRefused) {
  for (const auto dtype : {torch::kDouble, torch::kLong})
    expect_error<std::invalid_argument>([&] { computing_in(dtype); }, {"float32, bfloat16 or float16, got"});
}

TEST(ComputeDtype, SaysWhereFloat32WouldBeFaster) {
  const auto said = [](const std::function<UNet()>& load) {
    testing::internal::CaptureStderr();
    enable_logging();
    load();
    return testing::internal::GetCapturedStderr();
  };
  for (const auto dtype : {torch::kFloat, torch::kBFloat16, torch::kHalf}) {
    const auto warned = said([&] { return computing_in(dtype); });
    if (cpu::is_emulated(dtype))
      EXPECT_NE(warned.find("float32 (UNetOptions::compute_dtype, --dtype float32) is faster"), std::string::npos)
          << warned;
    else
      EXPECT_EQ(warned, "");
  }
  EXPECT_FALSE(cpu::is_emulated(torch::kFloat));
  // As it was traced counts, where nothing else is asked for.
  EXPECT_EQ(!said([] { return UNet::load(unet_file("sd1_bfloat16")); }).empty(), cpu::is_emulated(torch::kBFloat16));
}

TEST(FastestDtype, IsKnownForCpusAlone) {
  const auto dtype = fastest_dtype(torch::kCPU);
  ASSERT_TRUE(dtype.has_value());
  EXPECT_TRUE(*dtype == torch::kFloat || *dtype == torch::kBFloat16);
  EXPECT_FALSE(fastest_dtype(torch::kCUDA).has_value());
}

}  // namespace
}  // namespace deepcache::compute_dtype_test
