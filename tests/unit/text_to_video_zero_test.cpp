#include <gtest/gtest.h>

#include <cmath>
#include <deepcache/deepcache.hpp>
#include <limits>

#include "edited_package.hpp"
#include "expect_error.hpp"
#include "pipelines/background_smoothing.hpp"
#include "pipelines/motion_field.hpp"

namespace deepcache::text_to_video_zero_test {
namespace {

const auto kPackages = std::filesystem::path(DEEPCACHE_TEST_DATA) / "packages";

/// Four steps of two frames: quick.
TextToVideoZeroParams quick() {
  return {.video_length = 2, .num_inference_steps = 4, .height = 64, .width = 64, .t0 = 1, .t1 = 2};
}

class TextToVideoZeroTest : public testing::Test {
 protected:
  void refuse(const std::function<void(TextToVideoZeroParams&)>& edit, const std::vector<std::string>& parts) {
    auto params = quick();
    edit(params);
    expect_error<std::invalid_argument>([&] { pipe.validate("red heart", params); }, parts);
    expect_error<std::invalid_argument>([&] { pipe("red heart", params); }, parts);
  }
  TextToVideoZeroPipeline pipe = TextToVideoZeroPipeline::load(kPackages / "text_to_video_zero");
};

TEST_F(TextToVideoZeroTest, ShapesAndRanges) {
  auto params = quick();
  params.height = params.width = 0;
  const auto result = pipe("red heart", params);
  EXPECT_EQ(result.frames.sizes(), (torch::IntArrayRef{2, 3, 128, 128}));  // the model's own size
  EXPECT_EQ(result.frames.scalar_type(), torch::kFloat);
  EXPECT_GE(result.frames.min().item<float>(), 0);
  EXPECT_LE(result.frames.max().item<float>(), 1);
  EXPECT_EQ(result.latents.sizes(), (torch::IntArrayRef{2, 4, 16, 16}));
  EXPECT_FALSE(result.cancelled);
  params.decode = false;
  EXPECT_FALSE(pipe("red heart", params).frames.defined());
  EXPECT_EQ(pipe.model_type(), "text2video-zero");
  EXPECT_EQ(pipe.vae_scale_factor(), 8);
}

TEST_F(TextToVideoZeroTest, LatentsAreDecodedAfterwards) {
  const auto params = quick();
  const auto result = pipe("red heart", params);
  EXPECT_EQ(pipe.latent_shape(params), result.latents.sizes().vec());
  EXPECT_EQ(pipe.latent_shape({.video_length = 3}), (std::vector<std::int64_t>{3, 4, 16, 16}));
  EXPECT_TRUE(pipe.decode(result.latents).equal(result.frames));
  EXPECT_LT((pipe.decode(result.latents, {.slicing = true}) - result.frames).abs().max().item<float>(), 1e-5);
  expect_error<std::invalid_argument>(
      [&] {
        pipe.decode(torch::ones({4, 8, 8}));
      },
      {"[B, 4, h, w], got Float [4, 8, 8]"});
  expect_error<std::invalid_argument>([&] { pipe.latent_shape({.video_length = 0}); }, {"video_length", "got 0"});
  expect_error<std::invalid_argument>([&] { pipe.latent_shape({.width = 12}); }, {"width must be a positive multiple"});
}

TEST_F(TextToVideoZeroTest, PromptsAreReadAsStableDiffusionReadsThem) {
  const auto latents = [&](const std::string& prompt, const std::function<void(TextToVideoZeroParams&)>& edit) {
    auto params = quick();
    params.decode = false;
    edit(params);
    return pipe(prompt, params).latents;
  };
  const auto weighted = [](TextToVideoZeroParams& p) { p.prompt_weighting = true; };
  const auto usual = [](TextToVideoZeroParams&) {};
  const auto plain = latents("a red heart", usual);
  EXPECT_TRUE(latents("a red heart", weighted).allclose(plain, 1e-4, 1e-4));
  EXPECT_FALSE(latents("a (red:1.5) heart", weighted).allclose(plain, 1e-4, 1e-4));
  std::string longer = "red";
  for (int i = 0; i < 99; ++i) longer += " heart";
  EXPECT_FALSE(latents(longer, [](auto& p) { p.max_prompt_chunks = 2; }).allclose(latents(longer, usual), 1e-4, 1e-4));
  refuse([](auto& p) { p.max_prompt_chunks = 0; }, {"max_prompt_chunks must be 1 or above, got 0"});
  refuse([](auto& p) { p.clip_skip = -1; }, {"clip_skip must be 0 to", "got -1"});
}

TEST_F(TextToVideoZeroTest, WhatIsLeftToTheModel) {
  const auto params = pipe.resolve({.video_length = 3});
  EXPECT_EQ(std::tie(params.height, params.width), std::make_tuple(128, 128));
  EXPECT_EQ(params.frame_ids, (std::vector<std::int64_t>{0, 1, 2}));
  EXPECT_EQ(pipe.resolve({.video_length = 2, .frame_ids = {0, 7}}).frame_ids, (std::vector<std::int64_t>{0, 7}));
}

TEST_F(TextToVideoZeroTest, GivenLatentsGiveWhatTheirSeedGives) {
  auto params = quick();
  params.video_length = 1;  // more frames draw noise of their own
  const auto from_seed = pipe("red heart", params).latents;
  params.latents = NoiseGenerator(params.seeds).randn({1, 4, 8, 8}, torch::kFloat);
  params.seeds = {99};
  EXPECT_TRUE(pipe("red heart", params).latents.equal(from_seed));
}

TEST_F(TextToVideoZeroTest, ChunksOfALongVideoBeginWithTheSameFrame) {
  auto params = quick();
  const auto chunk = pipe("red heart", params).latents;
  params.frame_ids = {0, 3};
  const auto next = pipe("red heart", params).latents;
  EXPECT_LT((chunk[0] - next[0]).norm().item<float>(), 1e-4);
  EXPECT_GT((chunk[1] - next[1]).norm().item<float>(), 1e-2);
}

TEST_F(TextToVideoZeroTest, CancellingInEachPart) {
  auto params = quick();
  std::int64_t last = 0;
  params.callback = [&](const PipelineStep& step) {
    EXPECT_EQ(step.num_steps, 5);
    return step.step_index < last;
  };
  for (last = 0; last < 4; ++last) {  // one step to t1, one to t0, three of all frames
    const auto result = pipe("red heart", params);
    EXPECT_TRUE(result.cancelled);
    EXPECT_FALSE(result.frames.defined());
    EXPECT_EQ(result.latents.size(0), last < 2 ? 1 : 2);
  }
  params.callback = {};
  EXPECT_FALSE(pipe("red heart", params).cancelled);
}

TEST_F(TextToVideoZeroTest, ValidatingDuringARunLeavesItAlone) {
  auto params = quick();
  const auto expected = pipe("red heart", params).latents;
  params.callback = [&](const PipelineStep&) {
    auto other = quick();
    other.num_inference_steps = 7;
    pipe.validate("panda", other);
    return true;
  };
  EXPECT_TRUE(pipe("red heart", params).latents.equal(expected));
}

TEST_F(TextToVideoZeroTest, PartsAreOneRunInTheStatistics) {
  Helper helper(pipe);
  helper.set_params({.cache_interval = 2});
  helper.enable();
  pipe("red heart", quick());
  EXPECT_EQ(helper.stats().full_steps, 4);  // the first of each part, and the third of the last one
  EXPECT_EQ(helper.stats().cached_steps, 1);
}

TEST_F(TextToVideoZeroTest, ParametersOutOfRange) {
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  refuse([](auto& p) { p.video_length = 0; }, {"video_length must be 1 or above, got 0"});
  refuse([](auto& p) { p.video_length = -1; }, {"video_length must be 1 or above, got -1"});
  refuse([](auto& p) { p.t0 = 2; }, {"t0 must be 0 or above, and below t1", "got t0 2 and t1 2"});
  refuse([](auto& p) { p.t0 = 3; }, {"below t1", "got t0 3 and t1 2"});
  refuse([](auto& p) { p.t0 = -1; }, {"t0 must be 0 or above", "got t0 -1 and t1 2"});
  refuse([](auto& p) { p.t1 = 4; }, {"below the run's 4 timesteps", "got t0 1 and t1 4"});
  refuse([](auto& p) { p.motion_field_strength_x = std::nan(""); }, {"_x and _y must be finite", "nan and 12"});
  refuse([=](auto& p) { p.motion_field_strength_y = kInfinity; }, {"must be finite numbers, got 12 and inf"});
  refuse([](auto& p) { p.frame_ids = {0, 1, 2}; }, {"one frame id for each of the 2 frames, got 3"});
  refuse([](auto& p) { p.latents = torch::ones({2, 4, 8, 8}); }, {"shape [1, 4, 8, 8], got Float [2, 4, 8, 8]"});
  refuse([](auto& p) { p.latents = torch::ones({1, 4, 8, 9}); }, {"shape [1, 4, 8, 8], got Float [1, 4, 8, 9]"});
  refuse([](auto& p) { p.seeds = {1, 2}; }, {"there must be one seed", "got 2"});
  refuse([](auto& p) { p.width = 100; }, {"width must be a positive multiple of 8"});
  refuse([](auto& p) { p.num_inference_steps = 0; }, {"inference steps must be from 1 to the 1000"});
  refuse([](auto& p) { p.guidance_scale = std::nan(""); }, {"guidance_scale must be a finite number"});
  refuse([](auto& p) { p.negative_prompt = "\xff"; }, {"UTF-8"});
  refuse([](auto& p) { p.eta = 1.5; }, {"eta must be 0 to 1, got 1.5"});
  pipe.set_scheduler("plms");
  refuse([](auto& p) { p.eta = 0.5; }, {"eta is an option of DDIM; PNDMScheduler has none"});
}

TEST_F(TextToVideoZeroTest, MasksThatDoNotFit) {
  const auto with_mask = [](const torch::Tensor& mask) {
    return [=](TextToVideoZeroParams& p) { p.foreground_mask = mask; };
  };
  refuse(with_mask(torch::zeros({1, 1, 64, 64})), {"foreground_mask", "[2, 1, 64, 64], got Float [1, 1, 64, 64]"});
  refuse(with_mask(torch::zeros({2, 64, 64})), {"shape [2, 1, 64, 64], got Float [2, 64, 64]"});
  refuse(with_mask(torch::zeros({2, 1, 8, 8})), {"shape [2, 1, 64, 64], got Float [2, 1, 8, 8]"});
  refuse(with_mask(torch::zeros({2, 1, 64, 64}, torch::kByte)), {"floating-point", "got Byte"});
  refuse(with_mask(torch::full({2, 1, 64, 64}, 255.0)), {"from 0 to 1, got 255 to 255"});
  refuse([](auto& p) { p.smooth_bg_strength = 1.5; }, {"smooth_bg_strength must be 0 to 1, got 1.5"});
  refuse([](auto& p) { p.smooth_bg_strength = std::nan(""); }, {"smooth_bg_strength must be 0 to 1, got nan"});
}

TEST_F(TextToVideoZeroTest, SchedulersOfDdpmsProcessOnly) {
  pipe.set_scheduler("plms");
  for (const auto* name : {"euler", "euler_a", "heun"})
    expect_error<std::invalid_argument>([&] { pipe.set_scheduler(name); }, {"DDPM's process", "ddim", "Scheduler"});
  EXPECT_EQ(pipe.scheduler_name(), "plms");
  expect_error<std::invalid_argument>(
      [] { TextToVideoZeroPipeline::load(kPackages / "text_to_video_zero", {.scheduler = "heun"}); },
      {"got HeunDiscreteScheduler"});
}

TEST(TextToVideoZeroLoading, PackagesOfOtherFamilies) {
  expect_error<std::runtime_error>([] { TextToVideoZeroPipeline::load(kPackages / "one_layer"); },
                                   {"family \"stable-diffusion\"", "--as text-to-video-zero"});
  expect_error<std::runtime_error>([] { StableDiffusionPipeline::load(kPackages / "text_to_video_zero"); },
                                   {"family \"text-to-video-zero\""});
  const TemporaryFolder folder;
  const auto as_video =
      edited_package(folder, "sdxl", "deepcache.json", [](auto& json) { json["family"] = "text-to-video-zero"; });
  expect_error<std::runtime_error>([&] { TextToVideoZeroPipeline::load(as_video); },
                                   {"inputs must be sample, timestep, encoder_hidden_states, got", "time_ids"});
  const auto painting =
      edited_package(folder, "text_to_video_zero", "unet/config.json", [](auto& json) { json["in_channels"] = 9; });
  expect_error<std::runtime_error>([&] { TextToVideoZeroPipeline::load(painting); },
                                   {"unet/config.json", "in_channels must be the VAE's 4, got 9"});
}

TEST(TextToVideoZeroLoading, OptionsThatItDoesNotTake) {
  const auto package = kPackages / "text_to_video_zero";
  expect_error<std::invalid_argument>(
      [&] { TextToVideoZeroPipeline::load(package, {.controlnets = {kPackages / "controlnet_sd1"}}); },
      {"ControlNets go with Stable Diffusion only; got 1"});
  expect_error<std::invalid_argument>(
      [&] { TextToVideoZeroPipeline::load(package, {.device = torch::Device("cuda:99")}); }, {"no device \"cuda:99\""});
}

TEST(MotionField, MovesByPixelsOfAPictureOf512) {
  const auto picture = torch::arange(64 * 64, torch::kFloat).view({1, 1, 64, 64});
  const auto frames = warp(picture, {.strength_x = 8, .strength_y = 0, .frame_ids = {0, 1, 2}});
  ASSERT_EQ(frames.sizes(), (torch::IntArrayRef{3, 1, 64, 64}));
  EXPECT_TRUE(frames[0].equal(picture[0]));
  for (std::int64_t id = 1; id < 3; ++id)  // eight pixels are one latent
    EXPECT_TRUE(frames[id].slice(2, 0, 64 - id).equal(picture[0].slice(2, id)));
  const auto up = warp(picture, {.strength_x = 0, .strength_y = 16, .frame_ids = {1}});
  EXPECT_TRUE(up[0].slice(1, 0, 62).equal(picture[0].slice(1, 2)));
  EXPECT_EQ(warp(picture, {.strength_x = 8, .strength_y = 8, .frame_ids = {}}).size(0), 0);
}

TEST(MotionField, HalvesMoveAsFloatsDo) {
  const auto picture = torch::arange(256, torch::kFloat).view({1, 1, 16, 16});
  const MotionField field{.strength_x = 37, .strength_y = -21, .frame_ids = {1, 2, 3}};
  for (const auto dtype : {torch::kHalf, torch::kBFloat16}) {
    const auto moved = warp(picture.to(dtype), field);
    EXPECT_EQ(moved.scalar_type(), dtype);
    EXPECT_TRUE(moved.to(torch::kFloat).equal(warp(picture, field)));
  }
}

TEST(BackgroundSmoothing, ForegroundStaysAndBackgroundIsMixed) {
  const auto latents = torch::stack({torch::full({1, 16, 16}, 2.0F), torch::full({1, 16, 16}, 10.0F)});
  const MotionField still{.strength_x = 0, .strength_y = 0, .frame_ids = {1}};
  const auto background = smooth_background(latents, torch::zeros({2, 1, 128, 128}), still, 0.25);
  EXPECT_TRUE(background[0].allclose(latents[0]));
  EXPECT_TRUE(background[1].allclose(torch::full({1, 16, 16}, 0.25F * 10 + 0.75F * 2)));
  EXPECT_TRUE(smooth_background(latents, torch::ones({2, 1, 128, 128}), still, 0.25).allclose(latents));

  auto mask = torch::zeros({2, 1, 128, 128});
  mask.index_put_({1, 0, 64, 64}, 1);  // one latent of the second frame, which grows by two to each side
  const auto mixed = smooth_background(latents, mask, still, 0.25);
  EXPECT_EQ(mixed[1].eq(10).sum().item<std::int64_t>(), 25);
}

}  // namespace
}  // namespace deepcache::text_to_video_zero_test
