#include <gtest/gtest.h>

#include <deepcache/deepcache.hpp>
#include <nlohmann/json.hpp>

#include "edited_package.hpp"
#include "expect_error.hpp"

namespace deepcache::unconditional_pipeline_test {
namespace {

const std::filesystem::path kPackages = std::filesystem::path(DEEPCACHE_TEST_DATA) / "packages";

class UnconditionalPipelineTest : public testing::Test {
 protected:
  void refuse(const std::function<void(UnconditionalParams&)>& edit, const std::vector<std::string>& parts) {
    UnconditionalParams params{.num_inference_steps = 2};
    edit(params);
    expect_error<std::invalid_argument>([&] { pipe(params); }, parts);
    expect_error<std::invalid_argument>([&] { pipe.validate(params); }, parts);
  }
  void refuse_config(const std::function<void(nlohmann::json&)>& edit, const std::vector<std::string>& parts) {
    const auto package = edited_package(folder, "ddpm", "unet/config.json", edit);
    expect_error<std::runtime_error>([&] { UnconditionalPipeline::load(package); }, parts);
  }
  TemporaryFolder folder;
  UnconditionalPipeline pipe = UnconditionalPipeline::load(kPackages / "ddpm");
};

TEST_F(UnconditionalPipelineTest, ShapesAndRanges) {
  pipe.set_scheduler("ddim");
  const auto result = pipe({.batch_size = 2, .num_inference_steps = 2});
  EXPECT_EQ(result.images.sizes(), (torch::IntArrayRef{2, 3, 16, 16}));
  EXPECT_EQ(result.images.scalar_type(), torch::kFloat);
  EXPECT_GE(result.images.min().item<float>(), 0);
  EXPECT_LE(result.images.max().item<float>(), 1);
  EXPECT_TRUE(result.images.equal((result.latents / 2 + 0.5).clamp(0, 1)));
  EXPECT_FALSE(result.cancelled);
  EXPECT_EQ(pipe.model_type(), "ddpm");
}

TEST_F(UnconditionalPipelineTest, ValidatingDuringARunLeavesItAlone) {
  pipe.set_scheduler("ddim");
  UnconditionalParams params{.num_inference_steps = 4};
  const auto expected = pipe(params).latents;
  params.callback = [&](const PipelineStep&) {
    pipe.validate({.num_inference_steps = 7});
    return true;
  };
  EXPECT_TRUE(pipe(params).latents.equal(expected));
}

TEST_F(UnconditionalPipelineTest, GreysThatAreNotSquare) {
  auto grey = UnconditionalPipeline::load(kPackages / "ddpm_grey");
  EXPECT_EQ(grey.latent_shape({.batch_size = 3}), (std::vector<std::int64_t>{3, 1, 12, 20}));
  EXPECT_EQ(grey({.num_inference_steps = 2}).images.sizes(), (torch::IntArrayRef{1, 1, 12, 20}));
}

TEST_F(UnconditionalPipelineTest, StepsOfTheScheduler) {
  EXPECT_EQ(pipe.scheduler_name(), "DDPMScheduler");
  EXPECT_EQ(pipe.resolve({}).num_inference_steps, 1000);
  EXPECT_EQ(pipe.resolve({.num_inference_steps = 7}).num_inference_steps, 7);
  pipe.set_scheduler("ddim");
  EXPECT_EQ(pipe.resolve({}).num_inference_steps, 50);
  const auto package = edited_package(folder, "ddpm", "scheduler/scheduler_config.json",
                                      [](auto& json) { json["num_train_timesteps"] = 40; });
  auto short_one = UnconditionalPipeline::load(package);
  EXPECT_EQ(short_one.resolve({}).num_inference_steps, 40);
  short_one.set_scheduler("ddim");
  EXPECT_EQ(short_one.resolve({}).num_inference_steps, 40);
}

TEST_F(UnconditionalPipelineTest, OtherSchedulersScaleTheNoise) {
  for (const auto* name : {"euler", "plms", "dpm++_2m", "generalized_ddim_quad"}) {
    pipe.set_scheduler(name);
    const auto images = pipe({.num_inference_steps = 3}).images;
    EXPECT_TRUE(images.isfinite().all().item<bool>()) << name;
  }
  expect_error<std::invalid_argument>([&] { pipe.set_scheduler("magic"); }, {"magic", "generalized_ddim_quad"});
}

TEST_F(UnconditionalPipelineTest, OnlyDdpmReadsTheKindOfItsVariance) {
  auto other = UnconditionalPipeline::load(edited_package(folder, "ddpm", "scheduler/scheduler_config.json",
                                                          [](auto& json) { json["variance_type"] = "fixed_small"; }));
  for (const auto* name : {"ddim", "dpm++_2m", "ddpm"}) {
    pipe.set_scheduler(name);
    other.set_scheduler(name);
    const auto same = pipe({.num_inference_steps = 3}).latents.equal(other({.num_inference_steps = 3}).latents);
    EXPECT_EQ(same, name != std::string("ddpm")) << name;
  }
}

TEST_F(UnconditionalPipelineTest, OneSeedForEachPicture) {
  const auto both = pipe({.batch_size = 2, .num_inference_steps = 2, .seeds = {5, 6}}).latents;
  const auto second = pipe({.num_inference_steps = 2, .seeds = {6}}).latents;
  EXPECT_LT((second[0] - both[1]).norm().item<float>(), 1e-4 * both[1].norm().item<float>());
}

TEST_F(UnconditionalPipelineTest, CallbackMayCancel) {
  Helper helper(pipe);
  helper.set_params({.cache_interval = 2});
  helper.enable();
  UnconditionalParams params{.num_inference_steps = 5};
  std::vector<std::int64_t> steps;
  params.callback = [&](const PipelineStep& step) {
    EXPECT_EQ(step.num_steps, 5);
    steps.push_back(step.step_index);
    return step.step_index < 2;
  };
  const auto result = pipe(params);
  EXPECT_EQ(steps, (std::vector<std::int64_t>{0, 1, 2}));
  EXPECT_TRUE(result.cancelled);
  EXPECT_FALSE(result.images.defined());
  params.callback = {};
  EXPECT_FALSE(pipe(params).cancelled);
  EXPECT_EQ(helper.stats().steps.size(), 5U);
}

TEST_F(UnconditionalPipelineTest, NonUniformRefreshKnowsTheStepsOfTheRun) {
  Helper helper(pipe);
  helper.set_params({.cache_interval = 5, .skip_mode = SkipMode::kCenter, .pow = 1.4, .center = 15});
  helper.enable();
  pipe({.num_inference_steps = 50});
  EXPECT_EQ(helper.stats().full_steps, 10);
  EXPECT_EQ(helper.stats().policy, "center 15, pow 1.4, 1 of 5 steps in a run of 50");
  pipe({.num_inference_steps = 20});  // another number of steps, another policy
  EXPECT_EQ(helper.stats().policy, "center 15, pow 1.4, 1 of 5 steps in a run of 20");
  expect_error<std::invalid_argument>([&] { pipe({.num_inference_steps = 10}); },
                                      {"center must be 0 to the run's 10 steps, got 15"});
  EXPECT_EQ(pipe({.num_inference_steps = 15}).images.dim(), 4);  // usable after that
}

TEST_F(UnconditionalPipelineTest, BadParameters) {
  refuse([](auto& params) { params.batch_size = 0; }, {"batch_size must be 1 or above, got 0"});
  refuse([](auto& params) { params.num_inference_steps = 0; }, {"from 1 to the 1000 training timesteps, not 0"});
  refuse([](auto& params) { params.num_inference_steps = 1001; }, {"from 1 to the 1000 training timesteps, not 1001"});
  refuse([](auto& params) { params.eta = 0.5; }, {"eta is an option of DDIM; DDPMScheduler has none, got 0.5"});
  refuse([](auto& params) { params.use_clipped_model_output = true; },
         {"use_clipped_model_output is an option of DDIM; DDPMScheduler has none"});
  refuse([](auto& params) { params.eta = 1.5; }, {"eta must be 0 to 1, got 1.5"});
  refuse([](auto& params) { params.eta = std::nan(""); }, {"eta must be 0 to 1, got nan"});
  refuse([](auto& params) { params.seeds = {}; }, {"one for each of the batch's 1, got 0"});
  refuse([](auto& params) { params.seeds = {1, 2}; }, {"one for each of the batch's 1, got 2"});
  refuse([](auto& params) { params.latents = torch::zeros({1, 3, 8, 8}); }, {"[1, 3, 16, 16], got Float [1, 3, 8, 8]"});
  refuse([](auto& params) { params.latents = torch::zeros({1, 3, 16, 16}, torch::kInt); }, {"got Int [1, 3, 16, 16]"});
}

TEST_F(UnconditionalPipelineTest, OtherPackages) {
  expect_error<std::runtime_error>([] { UnconditionalPipeline::load(kPackages / "one_layer"); },
                                   {"one_layer", "family \"stable-diffusion\"", "runs unconditional"});
  expect_error<std::runtime_error>([] { StableDiffusionPipeline::load(kPackages / "ddpm"); },
                                   {"family \"unconditional\"", "stable-diffusion"});
  expect_error<std::invalid_argument>(
      [] { UnconditionalPipeline::load(kPackages / "ddpm", {.controlnets = {"canny"}}); }, {"ControlNets"});
  expect_error<std::invalid_argument>([] { UnconditionalPipeline::load(kPackages / "ddpm", {.scheduler = "magic"}); },
                                      {"no scheduler \"magic\""});
  const auto conditional =
      edited_package(folder, "one_layer", "deepcache.json", [](auto& json) { json["family"] = "unconditional"; });
  expect_error<std::runtime_error>([&] { UnconditionalPipeline::load(conditional); }, {"in_channels"});
}

TEST_F(UnconditionalPipelineTest, OtherConfigurations) {
  refuse_config([](auto& json) { json["out_channels"] = 6; }, {"out_channels must be the 3 of in_channels, got 6"});
  refuse_config([](auto& json) { json["in_channels"] = 2; }, {"in_channels must be 3, or 1 of greys, got 2"});
  refuse_config([](auto& json) { json["sample_size"] = nullptr; }, {"\"sample_size\" is missing"});
  refuse_config([](auto& json) { json["sample_size"] = 0; }, {"sample_size", "integer from 1"});
  refuse_config([](auto& json) { json["sample_size"] = {16, 16, 16}; }, {"[height, width]", "got [16, 16, 16]"});
  refuse_config([](auto& json) { json["sample_size"] = {16, 0}; }, {"[height, width]", "got [16, 0]"});
}

/// With an input that a prompt would need.
TEST_F(UnconditionalPipelineTest, UNetsWithFurtherInputs) {
  const auto package =
      edited_package(folder, "one_layer", "deepcache.json", [](auto& json) { json["family"] = "unconditional"; });
  auto config = read_json(package / "unet/config.json");
  config["in_channels"] = config["out_channels"] = 3;
  write_file(package / "unet/config.json", config.dump());
  auto manifest = read_json(package / "deepcache.json");
  manifest["files"]["unet/config.json"] = {{"bytes", config.dump().size()},
                                           {"sha256", sha256(package / "unet/config.json")}};
  write_file(package / "deepcache.json", manifest.dump());
  expect_error<std::runtime_error>(
      [&] { UnconditionalPipeline::load(package); },
      {"the UNet's inputs must be sample, timestep, got sample, timestep, encoder_hidden_states"});
}

}  // namespace
}  // namespace deepcache::unconditional_pipeline_test
