// What needs a GPU. CUDA graphs without one: recorded_steps_test.cpp.

#include <gtest/gtest.h>
#include <torch/cuda.h>

#include "deepcache/helper.hpp"
#include "networks.hpp"

namespace deepcache::cuda_test {
namespace {

class CudaTest : public testing::Test {
 protected:
  void SetUp() override {
    if (!torch::cuda::is_available()) GTEST_SKIP() << "no CUDA device, or a LibTorch without CUDA";
  }
};

/// Computes in float16.
UNet cuda_unet(bool cuda_graphs) {
  return UNet::load(
      unet_file("sd1"),
      {.device = torch::kCUDA, .dtype = torch::kFloat, .compute_dtype = torch::kHalf, .cuda_graphs = cuda_graphs});
}

/// Two runs of a helper; timesteps are on the device, or on the CPU.
std::vector<torch::Tensor> run(const UNet& unet, bool timesteps_on_device) {
  Helper helper(unet);
  helper.set_params({.cache_interval = 3, .cache_branch_id = 2});
  helper.enable();
  std::vector<torch::Tensor> outputs;
  for (int i = 0; i < 16; ++i) {
    if (i % 8 == 0) unet.begin_run();
    auto inputs = unet_inputs("sd1", i);
    for (const std::size_t input : {0, 1, 2})
      if (input != 1 || timesteps_on_device) inputs[input] = inputs[input].toTensor().to(torch::kCUDA);
    outputs.push_back(first_tensor(unet.forward(std::move(inputs))));
  }
  EXPECT_EQ(helper.stats().cached_steps, 5);
  return outputs;
}

TEST_F(CudaTest, RecordedStepsAreThoseThatAreNot) {
  const auto plain = cuda_unet(false), recorded = cuda_unet(true);
  for (const bool timesteps_on_device : {true, false}) {
    const auto expected = run(plain, timesteps_on_device), actual = run(recorded, timesteps_on_device);
    for (std::size_t i = 0; i < expected.size(); ++i)
      EXPECT_LT(((actual[i] - expected[i]).norm() / expected[i].norm()).item<double>(), 1e-3) << i;
  }
}

}  // namespace
}  // namespace deepcache::cuda_test
