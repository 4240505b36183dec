// Whole text-to-image runs against diffusers' pipeline, uncached and under DeepCacheSDHelper (or a Python model of it),
// recorded by tools/references/pipelines.py.

#include <gtest/gtest.h>

#include <deepcache/deepcache.hpp>
#include <map>
#include <nlohmann/json.hpp>

#include "recorded.hpp"
#include "tensor_near.hpp"

namespace deepcache {
namespace {

const std::filesystem::path kData = DEEPCACHE_TEST_DATA;

std::vector<std::string> case_names() {
  std::vector<std::string> names;
  const auto recorded = read_json(kData / "pipelines/recorded.json");
  for (const auto& entry : recorded.at("cases").items()) names.push_back(entry.key());
  return names;
}

StableDiffusionPipeline& pipeline(const std::string& variant) {
  static std::map<std::string, StableDiffusionPipeline> pipelines;  // loaded once
  const auto found = pipelines.find(variant);
  if (found != pipelines.end()) return found->second;
  return pipelines.emplace(variant, StableDiffusionPipeline::load(kData / "packages" / variant)).first->second;
}

TextToImageParams params_of(const Recorded& recorded) {
  return {.negative_prompt = recorded.text("negative_prompt"),
          .num_inference_steps = recorded.integer("num_inference_steps"),
          .guidance_scale = recorded.number("guidance_scale"),
          .height = recorded.integer("height") * 8,
          .width = recorded.integer("width") * 8,
          .seeds = {static_cast<std::uint64_t>(recorded.integer("seed"))}};
}

std::vector<std::string> prompts_of(const Recorded& recorded) {
  std::vector<std::string> prompts;
  for (const c10::IValue& prompt : recorded.at("prompts").toListRef()) prompts.push_back(prompt.toStringRef());
  return prompts;
}

double relative_difference(const torch::Tensor& actual, const torch::Tensor& expected) {
  return ((actual - expected).norm() / expected.norm()).item<double>();
}

class PipelineParity : public testing::TestWithParam<std::string> {};

TEST_P(PipelineParity, EveryStep) {
  const auto recorded = Recorded::load(kData / "pipelines" / (GetParam() + ".pt"));
  auto& pipe = pipeline(recorded.text("variant"));
  pipe.set_scheduler(recorded.text("scheduler") == "DDIM" ? "ddim" : "plms");

  Helper helper(pipe);
  const auto interval = recorded.integer("cache_interval");
  if (interval > 0) {
    helper.set_params(
        {.cache_interval = interval,
         .cache_branch_id = recorded.integer("cache_branch_id"),
         .step_counting = recorded.text("count") == "calls" ? StepCounting::kCalls : StepCounting::kTimesteps});
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
  const auto result = pipe(prompts_of(recorded), params);  // noise from the seed, as Python drew it

  const auto expected_timesteps = recorded.integers("timesteps");
  EXPECT_EQ(timesteps, std::vector<double>(expected_timesteps.begin(), expected_timesteps.end()));
  const auto expected = recorded.tensor("step_latents");
  ASSERT_EQ(static_cast<std::int64_t>(steps.size()), expected.size(0));
  for (std::int64_t i = 0; i < expected.size(0); ++i)
    EXPECT_LT(relative_difference(steps[static_cast<std::size_t>(i)], expected[i]), 1e-4) << "step " << i;
  EXPECT_LT(relative_difference(result.latents, recorded.tensor("latents")), 1e-4);
  const auto fields = recorded.at("full_calls").toListRef();
  if (interval > 0) {
    std::vector<std::int64_t> full_calls, expected_full_calls;
    const auto stats = helper.stats();
    for (std::size_t i = 0; i < stats.steps.size(); ++i)
      if (stats.steps[i].full) full_calls.push_back(static_cast<std::int64_t>(i));
    for (const c10::IValue& call : fields) expected_full_calls.push_back(call.toInt());
    EXPECT_EQ(full_calls, expected_full_calls);
  }
  if (recorded.has("image")) expect_tensor_near(result.images, recorded.tensor("image"), 1e-4);
}

INSTANTIATE_TEST_SUITE_P(Recorded, PipelineParity, testing::ValuesIn(case_names()),
                         [](const auto& test) { return test.param; });

TEST(PipelineParityInputs, GivenLatentsGiveWhatTheirSeedGives) {
  const auto recorded = Recorded::load(kData / "pipelines/sd1_ddim_3x13x17_8steps_uncached.pt");
  auto& pipe = pipeline("sd1");
  pipe.set_scheduler("ddim");
  auto params = params_of(recorded);
  const auto from_seed = pipe(prompts_of(recorded), params).latents;
  params.seeds = {99};
  params.latents = recorded.tensor("init_latents");
  EXPECT_TRUE(pipe(prompts_of(recorded), params).latents.equal(from_seed));
}

TEST(PipelineParityInputs, InitialNoiseIsPythonsBitForBit) {
  for (const auto* name : {"sd1_ddim_1x8x8_8steps_uncached", "sd1_ddim_3x13x17_8steps_uncached"}) {
    const auto recorded = Recorded::load(kData / "pipelines" / (std::string(name) + ".pt"));
    const auto expected = recorded.tensor("init_latents");
    NoiseGenerator noise({static_cast<std::uint64_t>(recorded.integer("seed"))});
    EXPECT_TRUE(noise.randn(expected.sizes(), torch::kFloat).equal(expected)) << name;
  }
}

}  // namespace
}  // namespace deepcache
