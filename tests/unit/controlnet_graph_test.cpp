#include "core/controlnet_graph.hpp"

#include <gtest/gtest.h>
#include <torch/jit.h>

#include "core/graph_cut.hpp"
#include "deepcache/helper.hpp"
#include "expect_error.hpp"
#include "networks.hpp"
#include "tensor_near.hpp"

namespace deepcache::controlnet_graph_test {
namespace {

std::filesystem::path controlnet_file(const std::string& package = "controlnet_sd1") {
  return std::filesystem::path(DEEPCACHE_TEST_DATA) / "packages" / package / "controlnet/model.pt";
}

torch::jit::Module controlnet(const std::string& package = "controlnet_sd1") {
  return load_module(controlnet_file(package), torch::kFloat);
}

UNet controlled_unet(const std::vector<std::string>& packages = {"controlnet_sd1"}) {
  std::vector<torch::jit::Module> modules;
  for (const auto& package : packages) modules.push_back(controlnet(package));
  return test_unet().with_controlnets(modules);
}

/// Those of the UNet alone, then a random control image and a scale for each ControlNet.
std::vector<c10::IValue> controlled_inputs(const std::vector<double>& scales, int seed = 0, std::int64_t batch = 1,
                                           std::int64_t height = 8, std::int64_t width = 8) {
  auto inputs = unet_inputs("sd1", seed, batch, height, width);
  auto generator = at::make_generator<at::CPUGeneratorImpl>(static_cast<std::uint64_t>(seed + 50));
  for (const auto scale : scales) {
    inputs.emplace_back(torch::rand({batch, 3, height * 8, width * 8}, generator));
    inputs.emplace_back(scale);
  }
  return inputs;
}

/// A network of one skip connection, four channels wide.
UNet small_unet() {
  return UNet(make_module(R"(
    def forward(self, sample, text):
        skip = torch.conv2d(sample, self.weight)
        deep = torch.tanh(torch.conv2d(skip, self.weight))
        return torch.cat([deep, skip], 1)
  )"));
}

TEST(ControlNetGraph, InputsAreTheUNetsAndTwoOfEachControlNet) {
  const auto unet = controlled_unet({"controlnet_sd1", "controlnet_sd1_bgr"});
  EXPECT_EQ(unet.input_names(),
            (std::vector<std::string>{"sample", "timestep", "encoder_hidden_states", "controlnet_cond_0",
                                      "conditioning_scale_0", "controlnet_cond_1", "conditioning_scale_1"}));
  EXPECT_EQ(unet.branch_names(), test_unet().branch_names());
  expect_error<std::invalid_argument>([&] { unet.forward(unet_inputs()); }, {"wrong inputs", "controlnet_cond_0"});
  EXPECT_EQ(test_unet().with_controlnets({}).input_names(), test_unet().input_names());
}

TEST(ControlNetGraph, ResidualsAreAddedToEachSkipConnectionAndTheMiddle) {
  const auto unet = small_unet().with_controlnets({make_module(R"(
    def forward(self, controlnet_cond, sample):
        return controlnet_cond + sample, controlnet_cond * 10
  )")});
  const auto x = torch::rand({1, 4, 3, 3}), image = torch::rand({1, 4, 3, 3});
  const auto parts = small_unet()(x, x).chunk(2, 1);
  const auto expected = torch::cat({parts[0] + 0.5 * (image * 10), parts[1] + 0.5 * (image + x)}, 1);
  expect_tensor_near(unet(x, x, image, 0.5), expected, 1e-6);
}

TEST(ControlNetGraph, ScaleZeroIsTheUNetAlone) {
  const auto inputs = controlled_inputs({0, 0}, 0, 2, 13, 17);
  const auto expected = first_tensor(test_unet().forward({inputs.begin(), inputs.begin() + 3}));
  const auto unet = controlled_unet({"controlnet_sd1", "controlnet_sd1_bgr"});
  EXPECT_TRUE(first_tensor(unet.forward(inputs)).equal(expected));
  auto scaled = inputs;
  scaled[4] = 1.0;
  EXPECT_GT((first_tensor(unet.forward(scaled)) - expected).abs().max().item<float>(), 0.05);
}

TEST(ControlNetGraph, SeveralAreSummed) {
  auto inputs = controlled_inputs({0.25, 0.5});
  inputs[5] = inputs[3];
  const auto together = first_tensor(controlled_unet({"controlnet_sd1", "controlnet_sd1"}).forward(inputs));
  auto alone = controlled_inputs({0.75});
  expect_tensor_near(together, first_tensor(controlled_unet().forward(alone)), 1e-4);
}

TEST(ControlNetGraph, FullAndShallowAreBitEqualToTheNetworkForEveryBranch) {
  const Forward unet{inference_graph(load_module(unet_file("sd1"), torch::kFloat)),
                     forward_schema(load_module(unet_file("sd1")))};
  const auto graph =
      add_controlnets(unet, {forward_of(controlnet()), forward_of(controlnet("controlnet_sd1_bgr"))}).graph;
  const auto inputs = controlled_inputs({1, 0.5}, 0, 2, 13, 17);
  const auto expected = first_tensor(Program(graph, "plain").run(inputs).at(0));
  for (std::int64_t branch = 0; branch < 12; ++branch) {
    const auto [full, shallow] = cut(graph, branch);
    auto outputs = Program(full, "full").run(inputs);
    EXPECT_TRUE(first_tensor(outputs[0]).equal(expected)) << branch;
    auto shallow_inputs = inputs;
    shallow_inputs.push_back(outputs[1]);
    EXPECT_TRUE(first_tensor(Program(shallow, "shallow").run(shallow_inputs).at(0)).equal(expected)) << branch;
  }
}

TEST(ControlNetGraph, CachedStepsRunOnlyItsFirstLayers) {
  const auto inputs = controlled_inputs({1}, 0, 2);
  const auto plain = test_unet().profile({inputs.begin(), inputs.begin() + 3});
  const auto controlled = controlled_unet().profile(inputs);
  ASSERT_EQ(controlled.size(), plain.size());
  const auto whole = controlled[0].full_step.total() - plain[0].full_step.total();
  EXPECT_GT(whole, plain[0].full_step.total() / 4);  // a copy of the UNet's first half
  std::int64_t previous = 0;
  for (std::size_t branch = 0; branch < plain.size(); ++branch) {
    EXPECT_EQ(controlled[branch].name, plain[branch].name);
    EXPECT_EQ(controlled[branch].feature_shape, plain[branch].feature_shape);
    const auto part = controlled[branch].cached_step.total() - plain[branch].cached_step.total();
    EXPECT_GT(part, previous) << branch;
    EXPECT_LT(part, whole) << branch;  // without the middle block, at least
    previous = part;
  }
  EXPECT_LT(controlled[0].cached_step.total(), controlled[0].full_step.total() / 3);
}

TEST(ControlNetGraph, TheControlImageStaysFreshOnCachedSteps) {
  const auto unet = controlled_unet();
  Helper helper(unet);
  helper.set_params({.cache_interval = 3});
  helper.enable();
  auto inputs = controlled_inputs({1});
  const auto full = first_tensor(unet.forward(inputs));
  EXPECT_TRUE(first_tensor(unet.forward(inputs)).equal(full));
  inputs[3] = torch::zeros_like(inputs[3].toTensor());
  const auto cached = first_tensor(unet.forward(inputs));
  EXPECT_GT((cached - full).abs().max().item<float>(), 0.01);
  const auto stats = helper.stats();
  EXPECT_EQ(stats.cached_steps, 2);
  EXPECT_GT(stats.macs_saved, 0);
  helper.disable();
  EXPECT_GT((first_tensor(unet.forward(inputs)) - cached).abs().max().item<float>(), 0.01);
}

TEST(ControlNetGraph, AScaleMayChangeFromStepToStep) {
  const auto unet = controlled_unet();
  Helper helper(unet);
  helper.set_params({.cache_interval = 2});
  helper.enable();
  auto inputs = controlled_inputs({1});
  unet.forward(inputs);
  inputs[4] = 0.0;
  unet.forward(inputs);
  EXPECT_EQ(helper.stats().cached_steps, 1);
}

TEST(ControlNetGraph, ConcatenationsOfTheControlNetAreNoPlacesToCut) {
  const auto unet = small_unet().with_controlnets({make_module(R"(
    def forward(self, sample, controlnet_cond):
        both = torch.cat([sample, controlnet_cond], 1)
        return both[:, :4], both[:, 4:]
  )")});
  ASSERT_EQ(unet.num_branches(), 1);
  const auto x = torch::rand({1, 4, 3, 3}), image = torch::rand({1, 4, 3, 3});
  Helper helper(unet);
  helper.set_params({.cache_interval = 2});
  helper.enable();
  const auto deep = unet(x, x, image, 1.0).chunk(2, 1)[0];
  const auto cached = unet(x + 1, x, image, 1.0).chunk(2, 1);
  EXPECT_TRUE(cached[0].equal(deep));
  expect_tensor_near(cached[1], torch::conv2d(x + 1, torch::full({4, 4, 1, 1}, 0.25)) + x + 1, 1e-6);
}

TEST(ControlNetGraph, LeavesUNetAndControlNetAsTheyWere) {
  const auto module = controlnet();
  const auto before = module.dump_to_str(true, true, false);
  const auto unet = test_unet();
  const auto expected = first_tensor(unet.forward(unet_inputs()));
  unet.with_controlnets({module});
  EXPECT_EQ(module.dump_to_str(true, true, false), before);
  EXPECT_TRUE(first_tensor(unet.forward(unet_inputs())).equal(expected));
}

TEST(ControlNetGraph, FilesAreNamed) {
  const auto inputs = controlled_inputs({1});
  const auto unet = test_unet().with_controlnet_files({controlnet_file()}, torch::kFloat);
  EXPECT_TRUE(first_tensor(unet.forward(inputs)).equal(first_tensor(controlled_unet().forward(inputs))));
  expect_error<std::invalid_argument>([] { test_unet("sd2").with_controlnet_files({controlnet_file()}); },
                                      {"controlnet_sd1/controlnet/model.pt: ControlNet 0 is for another UNet"});
  expect_error<std::runtime_error>([] { test_unet().with_controlnet_files({"nowhere.pt"}); },
                                   {"no such file", "nowhere.pt"});
}

TEST(ControlNetGraph, RefusesThoseOfOtherUNets) {
  expect_error<std::invalid_argument>(
      [] { test_unet("sd2").with_controlnets({controlnet()}); },
      {"ControlNet 0 is for another UNet: its encoder_hidden_states has width 32, this UNet's has 48"});
  expect_error<std::invalid_argument>(
      [] { test_unet("one_layer").with_controlnets({controlnet()}); },
      {"ControlNet 0 returns 13 residuals, this UNet takes 9: one for each of its 8 skip connections"});
  expect_error<std::invalid_argument>(
      [] {
        test_unet().with_controlnets({controlnet(), controlnet("controlnet_sdxl")});
      },
      {"ControlNet 1 is for another UNet: its encoder_hidden_states has width 80, this UNet's has 32"});
  expect_error<std::invalid_argument>(
      [] {
        small_unet().with_controlnets({make_module(R"(
          def forward(self, sample, controlnet_cond, text_embeds):
              return sample + text_embeds, controlnet_cond
        )")});
      },
      {"ControlNet 0 reads \"text_embeds\", which this UNet doesn't have; it has sample, text"});
  expect_error<std::invalid_argument>(
      [] {
        small_unet().with_controlnets({make_module(R"(
          def forward(self, sample, controlnet_cond):
              wide = torch.conv2d(controlnet_cond, torch.cat([self.weight, self.weight], 0))
              return wide * 2, wide
        )")});
      },
      {"ControlNet 0 is for another UNet: its residual 0 has width 8, this UNet's has 4"});
  expect_error<std::invalid_argument>(
      [] {
        small_unet().with_controlnets({make_module(R"(
          def forward(self, sample, controlnet_cond):
              narrow = torch.conv2d(sample, self.weight[:, :3]) + controlnet_cond
              return narrow, narrow
        )")});
      },
      {"ControlNet 0 is for another UNet: its sample has width 3, this UNet's has 4"});
}

TEST(ControlNetGraph, RefusesWhatIsNoControlNet) {
  expect_error<std::invalid_argument>([] { test_unet().with_controlnets({load_module(unet_file("sd1"))}); },
                                      {"ControlNet 0 has no input \"controlnet_cond\"", "is it a ControlNet?"});
  const auto returning = [](const std::string& value) {
    return make_module("def forward(self, sample, controlnet_cond):\n    return " + value + "\n");
  };
  expect_error<std::invalid_argument>([&] { small_unet().with_controlnets({returning("controlnet_cond")}); },
                                      {"ControlNet 0 returns Tensor; it must return a tuple of tensors"});
  expect_error<std::invalid_argument>([&] { small_unet().with_controlnets({returning("(controlnet_cond, 1)")}); },
                                      {"ControlNet 0 returns (Tensor, int); it must return a tuple of tensors"});
  auto training = controlnet();
  training.train();
  expect_error<std::invalid_argument>([&] { test_unet().with_controlnets({training}); }, {"training mode"});
}

TEST(ControlNetGraph, RefusesUNetsThatItCannotControl) {
  expect_error<std::invalid_argument>([] { controlled_unet().with_controlnets({controlnet()}); },
                                      {"this UNet has ControlNets already", "in one call"});
  expect_error<std::invalid_argument>(
      [] {
        UNet(make_module(R"(
          def forward(self, sample):
              skip = torch.conv2d(sample, self.weight)
              return torch.cat([skip, torch.tanh(skip)], 1)
        )"))
            .with_controlnets({controlnet()});
      },
      {"concatenate the deep layers' feature with the skip connection in this order"});
}

}  // namespace
}  // namespace deepcache::controlnet_graph_test
