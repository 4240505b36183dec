#include <gtest/gtest.h>

#include <deepcache/deepcache.hpp>
#include <nlohmann/json.hpp>

#include "edited_package.hpp"
#include "expect_error.hpp"

namespace deepcache::stable_video_diffusion_test {
namespace {

const std::filesystem::path kPackages = std::filesystem::path(DEEPCACHE_TEST_DATA) / "packages";

/// Two steps of 16x16 pixels: quick.
StableVideoDiffusionParams quick() {
  return {.height = 16, .width = 16, .num_inference_steps = 2};
}

class VideoPipelineTest : public testing::Test {
 protected:
  void refuse(const std::function<void(StableVideoDiffusionParams&)>& edit, const std::vector<std::string>& parts) {
    auto params = quick();
    edit(params);
    expect_error<std::invalid_argument>([&] { pipe(image, params); }, parts);
    expect_error<std::invalid_argument>([&] { pipe.validate(image, params); }, parts);
  }
  void refuse_image(const torch::Tensor& wrong, const std::vector<std::string>& parts) {
    expect_error<std::invalid_argument>([&] { pipe(wrong, quick()); }, parts);
  }
  torch::Tensor image = torch::linspace(0, 1, 3 * 16 * 16).view({3, 16, 16});
  static StableVideoDiffusionPipeline& shared() {
    static auto pipeline = StableVideoDiffusionPipeline::load(kPackages / "svd");
    return pipeline;
  }
  StableVideoDiffusionPipeline& pipe = shared();
};

TEST_F(VideoPipelineTest, ShapesAndRanges) {
  const auto result = pipe(image, quick());
  EXPECT_EQ(result.frames.sizes(), (torch::IntArrayRef{1, 3, 3, 16, 16}));  // the model's own number of frames
  EXPECT_EQ(result.frames.scalar_type(), torch::kFloat);
  EXPECT_GE(result.frames.min().item<float>(), 0);
  EXPECT_LE(result.frames.max().item<float>(), 1);
  EXPECT_EQ(result.latents.sizes(), (torch::IntArrayRef{1, 3, 4, 8, 8}));
  EXPECT_FALSE(result.cancelled);
  auto params = quick();
  params.decode = false;
  const auto latents_only = pipe(image, params);
  EXPECT_FALSE(latents_only.frames.defined());
  EXPECT_TRUE(pipe.decode(latents_only.latents).equal(result.frames));
}

TEST_F(VideoPipelineTest, ValidatingDuringARunLeavesItAlone) {
  auto params = quick();
  const auto expected = pipe(image, params).latents;
  params.callback = [&](const PipelineStep&) {
    auto other = quick();
    other.num_inference_steps = 7;
    pipe.validate(image, other);
    return true;
  };
  EXPECT_TRUE(pipe(image, params).latents.equal(expected));
}

TEST_F(VideoPipelineTest, WhatIsLeftToTheModel) {
  const auto plain = pipe.resolve({});
  EXPECT_EQ(std::tie(plain.height, plain.width), std::make_tuple(576, 1024));
  EXPECT_EQ(plain.num_frames, 3);
  EXPECT_EQ(plain.decode_chunk_size, 3);
  const auto own = pipe.resolve({.height = 0, .width = 0, .num_frames = 5});
  EXPECT_EQ(std::tie(own.height, own.width), std::make_tuple(16, 16));
  EXPECT_EQ(own.decode_chunk_size, 5);
  EXPECT_EQ(pipe.latent_shape(2, {.num_videos_per_prompt = 3}), (std::vector<std::int64_t>{6, 3, 4, 288, 512}));
}

TEST_F(VideoPipelineTest, WhatItIs) {
  EXPECT_EQ(pipe.model_type(), "svd");
  EXPECT_EQ(pipe.vae_scale_factor(), 2);
  EXPECT_EQ(pipe.scheduler_name(), "EulerDiscreteScheduler");
  EXPECT_EQ(pipe.unet().num_branches(), 6);
  expect_error<std::invalid_argument>([&] { pipe.set_scheduler("magic"); }, {"magic", "euler"});
  const TemporaryFolder folder;
  const auto xt = edited_package(folder, "svd", "unet/config.json", [](auto& json) { json["num_frames"] = 25; });
  const auto longer = StableVideoDiffusionPipeline::load(xt);
  EXPECT_EQ(longer.model_type(), "svd-xt");
  EXPECT_EQ(longer.resolve({}).num_frames, 25);
}

TEST_F(VideoPipelineTest, SeveralImagesAndVideosOfEachGoFirstByImage) {
  auto params = quick();
  params.decode = false;
  params.noise_aug_strength = 0;
  params.num_videos_per_prompt = 2;
  const auto noise = NoiseGenerator({7}).randn({4, 3, 4, 8, 8}, torch::kFloat);
  params.latents = noise;
  const auto other = 1 - image;
  const auto all = pipe(torch::stack({image, other}), params).latents;
  params.num_videos_per_prompt = 1;
  for (const std::int64_t i : {0, 1, 2, 3}) {
    params.latents = noise.slice(0, i, i + 1);
    const auto one = pipe(i < 2 ? image : other, params).latents;
    EXPECT_LT((all[i] - one[0]).norm().item<float>(), 1e-4 * one.norm().item<float>()) << i;
  }
}

TEST_F(VideoPipelineTest, ImagesOfAnotherSizeAreResized) {
  const auto doubled = image.repeat_interleave(2, 1).repeat_interleave(2, 2);
  EXPECT_TRUE(pipe(doubled, quick()).latents.isfinite().all().item<bool>());
  const auto wide = image.repeat_interleave(2, 2);  // stretched back to what it was, but for the rounding to 8 bits
  const auto expected = pipe(image, quick()).latents;
  EXPECT_LT((pipe(wide, quick()).latents - expected).norm().item<float>(), 0.1 * expected.norm().item<float>());
}

TEST_F(VideoPipelineTest, AWarningSaysThatAnImageIsStretched) {
  testing::internal::CaptureStderr();
  enable_logging();
  pipe(image, quick());
  pipe(torch::zeros({3, 32, 32}), quick());
  EXPECT_EQ(testing::internal::GetCapturedStderr(), "");
  testing::internal::CaptureStderr();
  pipe(torch::zeros({3, 20, 40}), quick());
  const auto warning = testing::internal::GetCapturedStderr();
  EXPECT_NE(warning.find("40x20 pixels, of another aspect than the video's 16x16: it is stretched"), std::string::npos)
      << warning;
}

TEST_F(VideoPipelineTest, CallbackSeesEachStepAndMayCancel) {
  auto params = quick();
  params.num_inference_steps = 4;
  std::vector<std::int64_t> steps;
  params.callback = [&](const PipelineStep& step) {
    EXPECT_EQ(step.num_steps, 4);
    EXPECT_EQ(step.latents.dim(), 5);
    steps.push_back(step.step_index);
    return step.step_index < 1;
  };
  Helper helper(pipe);
  helper.set_params({.cache_interval = 2});
  helper.enable();
  const auto result = pipe(image, params);
  EXPECT_EQ(steps, (std::vector<std::int64_t>{0, 1}));
  EXPECT_TRUE(result.cancelled);
  EXPECT_FALSE(result.frames.defined());
  params.callback = {};
  EXPECT_FALSE(pipe(image, params).cancelled);  // a run after a cancelled one begins anew
  EXPECT_EQ(helper.stats().cached_steps, 2);
}

TEST_F(VideoPipelineTest, ParametersOutOfRange) {
  refuse([](auto& p) { p.num_frames = 0; }, {"num_frames must be 1 or above, got 0"});
  refuse([](auto& p) { p.num_frames = -3; }, {"num_frames must be 1 or above, got -3"});
  refuse([](auto& p) { p.decode_chunk_size = 0; }, {"decode_chunk_size must be 1 frame or more, got 0"});
  refuse([](auto& p) { p.num_videos_per_prompt = 0; }, {"num_videos_per_prompt must be 1 or above, got 0"});
  refuse([](auto& p) { p.num_inference_steps = 0; }, {"inference steps must be from 1 to the 1000", "not 0"});
  refuse([](auto& p) { p.width = 19; }, {"width must be a positive multiple of 2", "nearest to 19 are 18 and 20"});
  refuse([](auto& p) { p.height = -2; }, {"height must be a positive multiple of 2"});
  for (const std::int64_t fps : {0, -1, 1001})
    refuse([=](auto& p) { p.fps = fps; }, {"fps must be 1 to 1000, got " + std::to_string(fps)});
  for (const std::int64_t bucket : {-1, 1024})
    refuse([=](auto& p) { p.motion_bucket_id = bucket; },
           {"motion_bucket_id must be 0 to 1023, got " + std::to_string(bucket)});
  for (const double strength : {-0.1, std::nan("")})
    refuse([=](auto& p) { p.noise_aug_strength = strength; }, {"noise_aug_strength must be a finite number, 0 or abo"});
  refuse([](auto& p) { p.max_guidance_scale = std::nan(""); },
         {"max_guidance_scale must be finite numbers, got 1 and"});
  refuse(
      [](auto& p) {
        p.min_guidance_scale = 3;
        p.max_guidance_scale = 1;
      },
      {"max_guidance_scale must be above 1 where min_guidance_scale is", "got 1 and 3"});
  refuse([](auto& p) { p.seeds = {}; }, {"one seed, or one for each of the batch's 1, got 0"});
  refuse([](auto& p) { p.seeds = {1, 2}; }, {"got 2"});
  refuse([](auto& p) { p.latents = torch::ones({1, 4, 8, 8}); }, {"shape [1, 3, 4, 8, 8], got Float [1, 4, 8, 8]"});
  refuse([](auto& p) { p.latents = torch::ones({1, 3, 4, 8, 8}, torch::kLong); }, {"floating-point", "got Long"});
  EXPECT_NO_THROW(pipe.validate(image, quick()));
}

TEST_F(VideoPipelineTest, ImagesThatDoNotFit) {
  refuse_image({}, {"image must hold floating-point values of shape [3, H, W]", "got none"});
  refuse_image(torch::zeros({16, 16}), {"image must hold", "got Float [16, 16]"});
  refuse_image(torch::zeros({1, 16, 16}), {"image must hold", "got Float [1, 16, 16]"});
  refuse_image(torch::zeros({0, 3, 16, 16}), {"image must hold", "got Float [0, 3, 16, 16]"});
  refuse_image(torch::zeros({3, 1, 16}), {"of 2 pixels a side or more; got Float [3, 1, 16]"});
  refuse_image(torch::zeros({3, 16, 16}, torch::kByte), {"floating-point", "got Byte"});
  refuse_image(image * 255, {"image must hold values from 0 to 1, got 0 to 255"});
  refuse_image(image * NAN, {"from 0 to 1, got"});
}

TEST_F(VideoPipelineTest, LatentsThatCanNotBeDecoded) {
  expect_error<std::invalid_argument>([&] { pipe.decode({}); }, {"latents must be [B, F, 4, h, w], got []"});
  expect_error<std::invalid_argument>([&] { pipe.decode(torch::zeros({1, 4, 8, 8})); }, {"got [1, 4, 8, 8]"});
  expect_error<std::invalid_argument>(
      [&] {
        pipe.decode(torch::zeros({1, 2, 4, 8, 8}), 0);
      },
      {"decode_chunk_size must be 1 frame or more, got 0"});
}

TEST(VideoPipelineLoading, PackagesThatItDoesNotRun) {
  const auto load = [](const std::filesystem::path& folder, const LoadOptions& options = {}) {
    return [=] { StableVideoDiffusionPipeline::load(folder, options); };
  };
  expect_error<std::runtime_error>(load(kPackages / "sd1"),
                                   {"sd1 holds a model of family \"stable-diffusion\"", "runs stable-video-diffusion"});
  expect_error<std::runtime_error>([] { StableDiffusionPipeline::load(kPackages / "svd"); },
                                   {"svd holds a model of family \"stable-video-diffusion\""});
  expect_error<std::invalid_argument>(load(kPackages / "svd", {.device = torch::Device("cuda:99")}),
                                      {"no device \"cuda:99\""});
  expect_error<std::invalid_argument>(load(kPackages / "svd", {.controlnets = {kPackages / "controlnet_sd1"}}),
                                      {"ControlNets go with Stable Diffusion only; got 1"});
}

TEST(VideoPipelineLoading, AUNetWithoutATemporalAxis) {
  const TemporaryFolder folder;
  const auto package = edited_package(folder, "svd", "unet/config.json", [](auto&) {});
  const auto name = "unet/model.pt";
  std::filesystem::copy_file(kPackages / "sd1" / name, package / name,
                             std::filesystem::copy_options::overwrite_existing);
  auto manifest = read_json(package / "deepcache.json");
  manifest["files"][name] = {{"bytes", std::filesystem::file_size(package / name)}, {"sha256", sha256(package / name)}};
  write_file(package / "deepcache.json", manifest.dump());
  expect_error<std::runtime_error>([&] { StableVideoDiffusionPipeline::load(package); },
                                   {"isn't a UNet with a temporal axis", "sample, timestep, encoder_hidden_states;",
                                    "expected sample, timestep, encoder_hidden_states, added_time_ids"});
}

TEST(VideoPipelineLoading, ConfigurationsThatAreNotAsTheyShouldBe) {
  const auto refuse = [](const char* name, const char* key, const nlohmann::json& value,
                         const std::vector<std::string>& parts) {
    const TemporaryFolder folder;
    const auto package = edited_package(folder, "svd", name, [&](auto& json) { json[key] = value; });
    expect_error<std::runtime_error>([&] { StableVideoDiffusionPipeline::load(package); }, parts);
  };
  refuse("unet/config.json", "in_channels", 4, {"unet/config.json", "in_channels must be 8", "got 4"});
  refuse("unet/config.json", "num_frames", 0, {"unet/config.json", "num_frames"});
  refuse("unet/config.json", "num_frames", nullptr, {"unet/config.json", "num_frames"});
  refuse("unet/config.json", "addition_time_embed_dim", 4, {"must be 3 times addition_time_embed_dim, 4, got 24"});
  refuse("image_encoder/config.json", "image_size", 336, {"image_size must be 224", "got 336"});
  refuse("feature_extractor/preprocessor_config.json", "image_mean", {0.5}, {"image_mean must have 3 entries, got 1"});
  refuse("feature_extractor/preprocessor_config.json", "image_std", {1.0, 0.0, 1.0}, {"image_std"});
}

}  // namespace
}  // namespace deepcache::stable_video_diffusion_test
