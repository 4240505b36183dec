// Text2Video-Zero against diffusers' pipeline, uncached and under DeepCache, recorded by
// tools/references/text_to_video_zero.py.

#include <gtest/gtest.h>

#include <algorithm>
#include <cctype>
#include <deepcache/deepcache.hpp>
#include <map>
#include <nlohmann/json.hpp>

#include "recorded.hpp"
#include "tensor_near.hpp"

namespace deepcache::text_to_video_zero_test {
namespace {

const std::filesystem::path kData = DEEPCACHE_TEST_DATA;

std::vector<std::string> case_names() {
  std::vector<std::string> names;
  const auto recorded = read_json(kData / "text_to_video_zero/recorded.json");
  for (const auto& entry : recorded.at("cases").items()) names.push_back(entry.key());
  return names;
}

TextToVideoZeroPipeline& pipeline(const std::string& package) {
  static std::map<std::string, TextToVideoZeroPipeline> pipelines;  // loaded once
  const auto found = pipelines.find(package);
  if (found != pipelines.end()) return found->second;
  return pipelines.emplace(package, TextToVideoZeroPipeline::load(kData / "packages" / package)).first->second;
}

TextToVideoZeroParams params_of(const Recorded& recorded) {
  const auto motion = recorded.numbers("motion_field_strength");
  TextToVideoZeroParams params{.video_length = recorded.integer("video_length"),
                               .num_inference_steps = recorded.integer("num_inference_steps"),
                               .guidance_scale = recorded.number("guidance_scale"),
                               .height = recorded.integer("height") * 8,
                               .width = recorded.integer("width") * 8,
                               .seeds = {static_cast<std::uint64_t>(recorded.integer("seed"))},
                               .eta = recorded.has("eta") ? recorded.number("eta") : 0.0,
                               .motion_field_strength_x = motion.at(0),
                               .motion_field_strength_y = motion.at(1),
                               .t0 = recorded.integer("t0"),
                               .t1 = recorded.integer("t1"),
                               .smooth_bg_strength = recorded.number("smooth_bg_strength")};
  if (const auto negative = recorded.text("negative_prompt"); !negative.empty()) params.negative_prompt = negative;
  if (recorded.has("frame_ids")) params.frame_ids = recorded.integers("frame_ids");
  if (recorded.has("input_mask"))  // whose values fill 4x4 pixels each
    params.foreground_mask =
        (recorded.tensor("input_mask").to(torch::kFloat) / 255).repeat_interleave(4, 2).repeat_interleave(4, 3);
  return params;
}

std::string scheduler_of(const Recorded& recorded) {
  auto name = recorded.text("scheduler");
  std::ranges::transform(name, name.begin(), [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  return name;
}

double relative_difference(const torch::Tensor& actual, const torch::Tensor& expected) {
  return ((actual - expected).norm() / expected.norm()).item<double>();
}

class TextToVideoZeroParity : public testing::TestWithParam<std::string> {};

TEST_P(TextToVideoZeroParity, EveryStep) {
  constexpr double kTolerance = 1e-4;
  const auto recorded = Recorded::load(kData / "text_to_video_zero" / (GetParam() + ".pt"));
  auto& pipe = pipeline(recorded.text("package"));
  pipe.set_scheduler(scheduler_of(recorded));

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
  std::vector<std::int64_t> full_calls;
  params.callback = [&](const PipelineStep& step) {
    EXPECT_EQ(step.step_index, static_cast<std::int64_t>(steps.size()));
    EXPECT_EQ(step.num_steps, recorded.tensor("timesteps").numel());
    if (interval > 0 && helper.stats().steps.back().full) full_calls.push_back(step.step_index);
    steps.push_back(step.latents);
    timesteps.push_back(step.timestep);
    return true;
  };
  const auto result = pipe(recorded.at("prompts").toListRef().front().toStringRef(), params);

  EXPECT_EQ(timesteps, recorded.numbers("timesteps"));
  const auto expected = recorded.at("step_latents").toListRef();
  ASSERT_EQ(steps.size(), expected.size());
  for (std::size_t i = 0; i < steps.size(); ++i) {
    const auto latents = static_cast<const c10::IValue&>(expected[i]).toTensor();
    ASSERT_EQ(steps[i].sizes(), latents.sizes()) << "step " << i;
    EXPECT_LT(relative_difference(steps[i], latents), kTolerance) << "step " << i;
  }
  EXPECT_LT(relative_difference(result.latents, recorded.tensor("latents")), kTolerance);
  if (interval > 0) {
    std::vector<std::int64_t> expected_full_calls;
    for (const c10::IValue& call : recorded.at("full_calls").toListRef()) expected_full_calls.push_back(call.toInt());
    EXPECT_EQ(full_calls, expected_full_calls);
  }
  if (recorded.has("image")) expect_tensor_near(result.frames, recorded.tensor("image"), kTolerance);
}

INSTANTIATE_TEST_SUITE_P(Recorded, TextToVideoZeroParity, testing::ValuesIn(case_names()),
                         [](const auto& test) { return test.param; });

}  // namespace
}  // namespace deepcache::text_to_video_zero_test
