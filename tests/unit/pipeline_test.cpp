#include <gtest/gtest.h>

#include <deepcache/deepcache.hpp>
#include <nlohmann/json.hpp>

#include "expect_error.hpp"
#include "io/files.hpp"
#include "temporary_folder.hpp"

namespace deepcache {
namespace {

/// Two steps of 64x64 pixels: quick.
StableDiffusionParams quick() {
  return {.num_inference_steps = 2, .height = 64, .width = 64};
}

class PipelineTest : public testing::Test {
 protected:
  void refuse(const std::function<void(StableDiffusionParams&)>& edit, const std::vector<std::string>& parts) {
    auto params = quick();
    edit(params);
    expect_error<std::invalid_argument>([&] { pipe("red heart", params); }, parts);
  }
  StableDiffusionPipeline pipe =
      StableDiffusionPipeline::load(std::filesystem::path(DEEPCACHE_TEST_DATA) / "packages/one_layer");
};

TEST_F(PipelineTest, ShapesAndRanges) {
  const auto result = pipe("red heart", {.num_inference_steps = 2});
  EXPECT_EQ(result.images.sizes(), (torch::IntArrayRef{1, 3, 128, 128}));  // the model's own size
  EXPECT_EQ(result.images.scalar_type(), torch::kFloat);
  EXPECT_GE(result.images.min().item<float>(), 0);
  EXPECT_LE(result.images.max().item<float>(), 1);
  EXPECT_EQ(result.latents.sizes(), (torch::IntArrayRef{1, 4, 16, 16}));
  EXPECT_FALSE(result.cancelled);
  auto params = quick();
  params.decode = false;
  const auto latents_only = pipe("red heart", params);
  EXPECT_FALSE(latents_only.images.defined());
  params.decode = true;
  EXPECT_TRUE(pipe.decode(latents_only.latents).equal(pipe("red heart", params).images));
}

TEST_F(PipelineTest, SeedsOneForTheBatchOrOneForEachImage) {
  auto params = quick();
  params.num_images_per_prompt = 2;
  params.seeds = {5, 6};
  const auto both = pipe("red heart", params).latents;
  params.num_images_per_prompt = 1;
  params.seeds = {6};
  EXPECT_LT((pipe("red heart", params).latents[0] - both[1]).norm().item<float>(), 1e-4 * both[1].norm().item<float>());
}

TEST_F(PipelineTest, SeveralPromptsGoFirstByPrompt) {
  auto params = quick();
  params.num_images_per_prompt = 2;
  params.seeds = {1, 1, 1, 1};
  const auto latents = pipe(std::vector<std::string>{"red heart", "panda"}, params).latents;
  EXPECT_LT((latents[0] - latents[1]).norm().item<float>(), 1e-4);
  EXPECT_LT((latents[2] - latents[3]).norm().item<float>(), 1e-4);
  EXPECT_GT((latents[1] - latents[2]).norm().item<float>(), 1e-2);
}

TEST_F(PipelineTest, CallbackSeesEachStepAndMayCancel) {
  auto params = quick();
  params.num_inference_steps = 5;
  std::vector<std::int64_t> steps;
  torch::Tensor last;
  params.callback = [&](const PipelineStep& step) {
    EXPECT_EQ(step.num_steps, 5);
    steps.push_back(step.step_index);
    last = step.latents;
    return step.step_index < 2;
  };
  Helper helper(pipe);
  helper.set_params({.cache_interval = 2});
  helper.enable();
  const auto result = pipe("red heart", params);
  EXPECT_EQ(steps, (std::vector<std::int64_t>{0, 1, 2}));
  EXPECT_TRUE(result.cancelled);
  EXPECT_FALSE(result.images.defined());
  EXPECT_TRUE(result.latents.equal(last));
  EXPECT_EQ(helper.stats().steps.size(), 3U);
  params.callback = {};
  EXPECT_FALSE(pipe("red heart", params).cancelled);  // a run after a cancelled one begins anew
  EXPECT_EQ(helper.stats().steps.size(), 5U);
}

TEST_F(PipelineTest, AThrowingCallbackLeavesThePipelineUsable) {
  Helper helper(pipe);
  helper.set_params({.cache_interval = 2});
  helper.enable();
  const auto expected = pipe("red heart", quick()).latents;
  auto params = quick();
  params.callback = [](const PipelineStep&) -> bool { throw std::logic_error("enough"); };
  EXPECT_THROW(pipe("red heart", params), std::logic_error);
  EXPECT_TRUE(pipe("red heart", quick()).latents.equal(expected));
}

TEST_F(PipelineTest, SchedulersByName) {
  EXPECT_EQ(pipe.scheduler_name(), "DDIMScheduler");
  pipe.set_scheduler("plms");
  EXPECT_EQ(pipe.scheduler_name(), "PNDMScheduler");
  expect_error<std::invalid_argument>([&] { pipe.set_scheduler("magic"); }, {"magic", "ddim", "plms"});
  EXPECT_EQ(pipe.scheduler_name(), "PNDMScheduler");
}

TEST_F(PipelineTest, APackageOfAnUnknownSchedulerRunsWithAnotherOne) {
  const TemporaryFolder folder;
  const auto package = folder.path() / "package";
  std::filesystem::copy(std::filesystem::path(DEEPCACHE_TEST_DATA) / "packages/one_layer", package,
                        std::filesystem::copy_options::recursive);
  const auto config = package / "scheduler/scheduler_config.json";
  auto json = read_json(config);
  json["_class_name"] = "NewScheduler";
  write_file(config, json.dump());
  auto manifest = read_json(package / "deepcache.json");
  manifest["files"]["scheduler/scheduler_config.json"] = {{"bytes", json.dump().size()}, {"sha256", sha256(config)}};
  write_file(package / "deepcache.json", manifest.dump());
  expect_error<std::runtime_error>([&] { StableDiffusionPipeline::load(package); }, {"NewScheduler"});
  auto other = StableDiffusionPipeline::load(package, torch::kCPU, "ddim");
  EXPECT_TRUE(other("red heart", quick()).latents.equal(pipe("red heart", quick()).latents));
}

TEST_F(PipelineTest, ParametersOutOfRange) {
  refuse([](auto& p) { p.num_inference_steps = 0; }, {"inference steps must be from 1 to the 1000", "not 0"});
  refuse([](auto& p) { p.num_inference_steps = 1001; }, {"from 1 to the 1000", "not 1001"});
  refuse([](auto& p) { p.width = 100; }, {"width must be a positive multiple of 8", "nearest to 100 are 96 and 104"});
  refuse([](auto& p) { p.height = 3; }, {"height", "nearest to 3 are 8 and 16"});
  refuse([](auto& p) { p.height = -8; }, {"height must be a positive multiple of 8"});
  refuse([](auto& p) { p.num_images_per_prompt = 0; }, {"num_images_per_prompt must be 1 or above, got 0"});
  refuse([](auto& p) { p.guidance_scale = std::nan(""); }, {"guidance_scale must be a finite number"});
  refuse([](auto& p) { p.guidance_rescale = 1.5; }, {"guidance_rescale must be 0 to 1, got 1.5"});
  refuse([](auto& p) { p.clip_skip = 3; }, {"clip_skip must be 0 to 2 for this model, got 3"});
  refuse([](auto& p) { p.clip_skip = -1; }, {"clip_skip must be 0 to 2", "got -1"});
  refuse([](auto& p) { p.prompt_2 = "x"; }, {"are SDXL's"});
  refuse([](auto& p) { p.target_size = ImageSize{64, 64}; }, {"are SDXL's"});
  refuse([](auto& p) { p.negative_prompt = "\xff"; }, {"UTF-8"});
  refuse([](auto& p) { p.eta = 1.5; }, {"eta must be 0 to 1, got 1.5"});
  refuse([](auto& p) { p.seeds = {}; }, {"one seed, or one for each of the 1 images, got 0"});
  refuse([](auto& p) { p.seeds = {1, 2}; }, {"got 2"});
  refuse([](auto& p) { p.latents = torch::ones({1, 4, 8, 9}); }, {"shape [1, 4, 8, 8], got Float [1, 4, 8, 9]"});
  refuse([](auto& p) { p.latents = torch::ones({1, 4, 8, 8}, torch::kLong); }, {"floating-point", "got Long"});
  expect_error<std::invalid_argument>([&] { pipe(std::vector<std::string>{}, quick()); },
                                      {"one prompt or more, got none"});
  expect_error<std::invalid_argument>([&] { pipe("\xff", quick()); }, {"UTF-8"});
  expect_error<std::invalid_argument>([&] { pipe.validate({"fine", "\xff"}, quick()); }, {"UTF-8"});
  EXPECT_NO_THROW(pipe.validate({"fine"}, quick()));
  pipe.set_scheduler("plms");
  refuse([](auto& p) { p.eta = 0.5; }, {"eta is an option of DDIM; PNDMScheduler has none, got 0.5"});
}

TEST(PipelineLoading, DeviceThatIsNotThere) {
  expect_error<std::invalid_argument>(
      [] {
        StableDiffusionPipeline::load(std::filesystem::path(DEEPCACHE_TEST_DATA) / "packages/sd1",
                                      torch::Device("cuda:99"));
      },
      {"no device \"cuda:99\""});
}

}  // namespace
}  // namespace deepcache
