// Whole runs against diffusers' StableVideoDiffusionPipeline, uncached and under DeepCacheSDHelper, and what is done to
// images before, recorded by tools/references/svd.py.

#include <gtest/gtest.h>

#include <deepcache/deepcache.hpp>
#include <functional>
#include <map>
#include <nlohmann/json.hpp>

#include "io/lanczos.hpp"
#include "models/image_encoder.hpp"
#include "recorded.hpp"
#include "tensor_near.hpp"

namespace deepcache::stable_video_diffusion_test {
namespace {

const std::filesystem::path kData = DEEPCACHE_TEST_DATA;
constexpr double kTolerance = 1e-4;  // relative, by norm, of latents; absolute of frames in [0, 1]

std::vector<std::string> case_names() {
  std::vector<std::string> names;
  const auto recorded = read_json(kData / "svd/recorded.json");
  for (const auto& entry : recorded.at("cases").items()) names.push_back(entry.key());
  return names;
}

StableVideoDiffusionPipeline& pipeline() {
  static auto pipe = StableVideoDiffusionPipeline::load(kData / "packages/svd");
  return pipe;
}

/// Further arguments of Python's pipeline, under their names there.
void read_options(const Recorded& options, StableVideoDiffusionParams& params) {
  const std::map<std::string, std::function<void(const char*)>> readers{
      {"fps", [&](const char* key) { params.fps = options.integer(key); }},
      {"motion_bucket_id", [&](const char* key) { params.motion_bucket_id = options.integer(key); }},
      {"noise_aug_strength", [&](const char* key) { params.noise_aug_strength = options.number(key); }},
      {"min_guidance_scale", [&](const char* key) { params.min_guidance_scale = options.number(key); }},
      {"max_guidance_scale", [&](const char* key) { params.max_guidance_scale = options.number(key); }},
      {"decode_chunk_size", [&](const char* key) { params.decode_chunk_size = options.integer(key); }}};
  for (const auto& key : options.keys()) readers.at(key)(key.c_str());
}

StableVideoDiffusionParams params_of(const Recorded& recorded) {
  StableVideoDiffusionParams params{.height = recorded.integer("height"),
                                    .width = recorded.integer("width"),
                                    .num_frames = recorded.integer("num_frames"),
                                    .num_inference_steps = recorded.integer("num_inference_steps"),
                                    .num_videos_per_prompt = recorded.integer("num_videos_per_prompt"),
                                    .seeds = {static_cast<std::uint64_t>(recorded.integer("seed"))}};
  if (recorded.has("seeds")) {
    const auto seeds = recorded.integers("seeds");
    params.seeds.assign(seeds.begin(), seeds.end());
  }
  read_options(Recorded(recorded.at("options")), params);
  return params;
}

double relative_difference(const torch::Tensor& actual, const torch::Tensor& expected) {
  const auto exact = expected.to(torch::kDouble);
  return ((actual.to(torch::kDouble) - exact).norm() / exact.norm()).item<double>();
}

std::vector<std::int64_t> full_steps(const CacheStats& stats) {
  std::vector<std::int64_t> indices;
  for (const auto& step : stats.steps)
    if (step.full) indices.push_back(step.step_index);
  return indices;
}

class VideoParity : public testing::TestWithParam<std::string> {};

TEST_P(VideoParity, EveryStep) {
  const auto recorded = Recorded::load(kData / "svd" / (GetParam() + ".pt"));
  auto& pipe = pipeline();
  Helper helper(pipe);
  const auto interval = recorded.integer("cache_interval");
  if (interval > 0) {
    helper.set_params(
        {.cache_interval = interval, .cache_branch_id = recorded.integer("cache_branch_id"), .forecast_order = 0});
    helper.enable();
  }
  auto params = params_of(recorded);
  std::vector<torch::Tensor> steps;
  std::vector<double> timesteps;
  params.callback = [&](const PipelineStep& step) {
    steps.push_back(step.latents);
    timesteps.push_back(step.timestep);
    return true;
  };
  const auto result = pipe(recorded.tensor("input_image").to(torch::kFloat) / 255, params);

  EXPECT_EQ(timesteps, recorded.numbers("timesteps"));
  const auto expected = recorded.tensor("step_latents");
  ASSERT_EQ(static_cast<std::int64_t>(steps.size()), expected.size(0));
  for (std::int64_t i = 0; i < expected.size(0); ++i) {
    ASSERT_EQ(steps[static_cast<std::size_t>(i)].sizes(), expected[i].sizes());
    EXPECT_LT(relative_difference(steps[static_cast<std::size_t>(i)], expected[i]), kTolerance) << "step " << i;
  }
  EXPECT_TRUE(result.latents.equal(steps.back()));
  if (interval > 0) {
    std::vector<std::int64_t> expected_full;
    const auto& calls = recorded.at("full_calls").toListRef();
    for (const c10::IValue& call : calls) expected_full.push_back(call.toInt());
    EXPECT_EQ(full_steps(helper.stats()), expected_full);
  }
  if (recorded.has("frames")) expect_tensor_near(result.frames, recorded.tensor("frames"), kTolerance);
}

INSTANTIATE_TEST_SUITE_P(Recorded, VideoParity, testing::ValuesIn(case_names()),
                         [](const auto& test) { return test.param; });

TEST(VideoParityInputs, ImagesAreResizedAsPillowDoesIt) {
  const auto recorded = Recorded::load(kData / "svd/preprocessing.pt");
  const auto sizes = recorded.tensor("sizes");
  const auto expected = recorded.at("lanczos").toListRef();
  ASSERT_EQ(static_cast<std::int64_t>(expected.size()), sizes.size(0));
  for (std::int64_t i = 0; i < sizes.size(0); ++i) {
    const auto resized =
        resize_lanczos(recorded.tensor("image"), sizes[i][0].item<std::int64_t>(), sizes[i][1].item<std::int64_t>());
    expect_tensor_near(resized, expected[static_cast<std::size_t>(i)].toTensor(), 0);
  }
}

TEST(VideoParityInputs, ImagesForTheEncoderAreSmoothedAsDiffusersDoesIt) {
  const auto recorded = Recorded::load(kData / "svd/preprocessing.pt");
  const auto images = recorded.at("images").toListRef();
  const auto expected = recorded.at("antialiased").toListRef();
  for (std::size_t i = 0; i < images.size(); ++i) {
    const auto image = images[i].toTensor().unsqueeze(0).to(torch::kFloat) / 255 * 2 - 1;
    expect_tensor_near(resize_with_antialiasing(image, 32, 32), expected[i].toTensor(), 1e-6);
  }
}

TEST(VideoParityInputs, GivenLatentsGiveWhatTheirSeedGives) {
  const auto recorded = Recorded::load(kData / "svd/svd_1x3x16x16_6steps_uncached.pt");
  auto params = params_of(recorded);
  params.decode = false;
  const auto image = recorded.tensor("input_image").to(torch::kFloat) / 255;
  const auto from_seed = pipeline()(image, params).latents;
  NoiseGenerator noise(params.seeds);
  noise.randn({1, 3, 16, 16}, torch::kFloat);  // which the image gets first
  params.latents = noise.randn(pipeline().latent_shape(1, params), torch::kFloat);
  EXPECT_TRUE(pipeline()(image, params).latents.equal(from_seed));
}

}  // namespace
}  // namespace deepcache::stable_video_diffusion_test
