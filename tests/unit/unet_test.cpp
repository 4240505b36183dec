#include "deepcache/unet.hpp"

#include <gtest/gtest.h>
#include <torch/jit.h>

#ifdef __linux__
#include <sys/resource.h>
#endif

#include "deepcache/helper.hpp"
#include "expect_error.hpp"
#include "io/files.hpp"
#include "networks.hpp"
#include "temporary_folder.hpp"
#include "tensor_near.hpp"

namespace deepcache::unet_test {
namespace {

TEST(UNetLoading, OneFileServesEverySize) {
  const auto unet = test_unet();
  for (const auto& [height, width] : {std::pair{8, 8}, {12, 20}, {13, 17}, {9, 8}})
    for (const std::int64_t batch : {1, 3}) {
      const auto inputs = unet_inputs("sd1", 0, batch, height, width);
      EXPECT_EQ(unet(inputs[0].toTensor(), inputs[1].toTensor(), inputs[2].toTensor()).sizes(),
                inputs[0].toTensor().sizes());
    }
}

TEST(UNetLoading, EqualsTheModule) {
  const auto inputs = unet_inputs();
  auto module = load_module(unet_file("sd1"), torch::kFloat);
  const torch::NoGradGuard no_grad;
  const auto expected = first_tensor(module.forward(inputs)), actual = first_tensor(UNet(module).forward(inputs));
  EXPECT_TRUE(actual.is_contiguous());
  // Sums are made in another order: of float32, either is 7e-7 from float64's.
  EXPECT_LT(((actual - expected).norm() / expected.norm()).item<double>(), 2e-6);
}

TEST(UNetLoading, MissingDamagedOrForeignFiles) {
  const TemporaryFolder folder;
  expect_error<std::runtime_error>([&] { UNet::load(folder.path() / "unet.pt"); }, {"no such file", "unet.pt"});
  const auto bytes = read_file(unet_file("sd1"));
  write_file(folder.path() / "half.pt", bytes.substr(0, bytes.size() / 2));
  expect_error<std::runtime_error>([&] { UNet::load(folder.path() / "half.pt"); },
                                   {"half.pt isn't a readable TorchScript"});
  write_file(folder.path() / "text.pt", "hello");
  expect_error<std::runtime_error>([&] { UNet::load(folder.path() / "text.pt"); },
                                   {"text.pt isn't a readable TorchScript"});
}

TEST(UNetLoading, DevicesThatAreNotThere) {
  expect_error<std::invalid_argument>([&] { UNet::load(unet_file("sd1"), torch::Device("cuda:99")); },
                                      {"no device \"cuda:99\"", "allowed are cpu"});
  expect_error<std::invalid_argument>([&] { UNet::load(unet_file("sd1"), torch::kXPU); }, {"no device \"xpu\""});
}

TEST(UNetLoading, CudaGraphsNeedACudaDeviceAndATracedUNet) {
  expect_error<std::invalid_argument>([] { UNet::load(unet_file("sd1"), {.cuda_graphs = true}); },
                                      {"cuda_graphs must be false unless", "device is \"cuda\"", "got \"cpu\""});
  expect_error<std::invalid_argument>(
      [] { UNet::load(unet_file("sd1"), {.device = torch::Device("cuda:99"), .cuda_graphs = true}); },
      {"no device \"cuda:99\"", "allowed are cpu"});
  expect_error<std::invalid_argument>([] { UNet::load("unet.pt2", {.trust_native_code = true, .cuda_graphs = true}); },
                                      {"cuda_graphs must be false for a *.pt2", "got true for unet.pt2"});
}

TEST(UNetLoading, FilesOfOtherNetworksAreNamed) {
  const TemporaryFolder folder;
  make_module("def forward(self, x):\n    return torch.conv2d(x, self.weight)\n").save(folder.path() / "vae.pt");
  expect_error<std::invalid_argument>([&] { UNet::load(folder.path() / "vae.pt"); },
                                      {"vae.pt: the network has no skip concatenation", "is it a UNet?"});
}

TEST(UNetLoading, FrozenModulesRunButHaveNoNamesAndKeepTheirDtype) {
  const TemporaryFolder folder;
  auto frozen = torch::jit::freeze(load_module(unet_file("sd1"), torch::kFloat));
  const UNet unet(frozen);
  EXPECT_TRUE(first_tensor(unet.forward(unet_inputs())).equal(first_tensor(test_unet().forward(unet_inputs()))));
  EXPECT_EQ(unet.branch_names(), std::vector<std::string>(12));
  Helper helper(unet);
  expect_error<std::invalid_argument>([&] { helper.set_params({.cache_module = "up_blocks.3.resnets.2"}); },
                                      {"names, which this UNet has lost", "cache_branch_id, 0 to 11"});
  frozen.save(folder.path() / "frozen.pt");
  expect_error<std::runtime_error>([&] { UNet::load(folder.path() / "frozen.pt", torch::kCPU, torch::kHalf); },
                                   {"frozen.pt has no parameters to cast to Half"});
}

TEST(UNetLoading, ALoadedModuleRunsWhereItsWeightsAre) {
  auto module = make_module(R"(
    def forward(self, x):
        return torch.cat([torch.conv2d(x, self.weight), x], 1)
  )");
  EXPECT_EQ(UNet(module).device(), torch::kCPU);
  module.setattr("weight", module.attr("weight").toTensor().to(torch::kMeta));
  EXPECT_EQ(UNet(module).device(), torch::kMeta);
  EXPECT_EQ(UNet(torch::jit::freeze(module)).device(), torch::kMeta);
}

TEST(UNetInputs, WrongInputsSayWhatIsExpected) {
  const auto unet = test_unet();
  const auto inputs = unet_inputs();
  expect_error<std::invalid_argument>([&] { unet.forward({inputs[0], inputs[1]}); }, {"wrong inputs"});
  expect_error<std::invalid_argument>(
      [&] {
        unet.forward({inputs[0], inputs[1], inputs[2], inputs[2]});
      },
      {"wrong inputs"});
  expect_error<std::invalid_argument>(
      [&] {
        unet.forward({inputs[0], inputs[1], "text"});
      },
      {"wrong inputs", "Tensor"});
  const UNet with_default(make_module(R"(
    def forward(self, x, scale: float = 2.0):
        return torch.cat([x * scale, x], 1)
  )"));
  expect_error<std::invalid_argument>([&] { with_default.forward({inputs[0]}); }, {"takes 2 inputs, got 1"});
  EXPECT_THROW(unet(torch::ones({1, 4, 8, 8}), torch::tensor(1), torch::ones({1, 24, 7})), std::exception);
  EXPECT_TRUE(first_tensor(unet.forward(inputs)).isfinite().all().item<bool>());  // still usable
}

TEST(UNetOutputs, AnyKindThatHoldsASample) {
  const auto x = torch::rand({1, 4, 2, 2});
  const auto source = [](const std::string& result) {
    return "def forward(self, x):\n    h = torch.cat([torch.conv2d(x, self.weight), x], 1)\n    return " + result +
           "\n";
  };
  const auto expected = UNet(make_module(source("h")))(x);
  EXPECT_TRUE(UNet(make_module(source("(h, x)")))(x).equal(expected));
  EXPECT_TRUE(UNet(make_module(source("{\"sample\": h}")))(x).equal(expected));
  const UNet integer(make_module(source("h.size(0)")));
  EXPECT_EQ(integer.forward({x}).toInt(), 1);
  expect_error<std::invalid_argument>([&] { integer(x); }, {"the network returns Int", "sample"});
}

TEST(UNetProfile, ShapesBytesAndNames) {
  const auto profile = test_unet().profile(unet_inputs("sd1", 0, 2, 12, 20));
  ASSERT_EQ(profile.size(), 12U);
  EXPECT_EQ(profile[0].name, "up_blocks.3.resnets.2");
  for (const auto& place : profile) {
    ASSERT_EQ(place.feature_shape.size(), 4U);
    EXPECT_EQ(place.feature_shape[0], 2);
    EXPECT_EQ(place.feature_bytes, 4 * c10::multiply_integers(place.feature_shape));
    EXPECT_LT(place.cached_step.total(), place.full_step.total());
  }
  EXPECT_EQ(profile[0].feature_shape[2], 12);
  EXPECT_EQ(profile[0].feature_shape[3], 20);
}

#ifdef __linux__
std::int64_t faults() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return usage.ru_minflt;
}

TEST(KeepFreedMemory, TheSystemIsNotAskedAgain) {
  if (!keep_freed_memory()) GTEST_SKIP() << "not glibc's malloc";
  constexpr std::int64_t kBytes = std::int64_t{64} << 20, kPages = kBytes / 4096;  // more than it keeps by itself
  const auto use = [] { torch::ones({kBytes}, torch::kByte); };
  for (int i = 0; i < 10; ++i) use();  // the first few leave small holes
  const auto before = faults();
  use();
  EXPECT_LT(faults() - before, kPages / 100);
}
#endif

}  // namespace
}  // namespace deepcache::unet_test
