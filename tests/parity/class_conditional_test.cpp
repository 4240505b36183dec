// Class-conditional runs, cached and not, against what tools/references/class_conditional.py recorded of CompVis's
// arithmetic.

#include <gtest/gtest.h>

#include <deepcache/deepcache.hpp>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "recorded.hpp"
#include "tensor_near.hpp"

namespace deepcache::class_conditional_test {
namespace {

constexpr double kTolerance = 1e-4;  // relative, by norm

const std::filesystem::path kFolder = std::filesystem::path(DEEPCACHE_TEST_DATA) / "class_conditional";

std::vector<std::string> case_names() {
  std::vector<std::string> names;
  const auto recorded = read_json(kFolder / "recorded.json");
  for (const auto& entry : recorded.at("cases").items()) names.push_back(entry.key());
  return names;
}

ClassConditionalPipeline& pipeline() {
  static auto pipe = ClassConditionalPipeline::load(std::filesystem::path(DEEPCACHE_TEST_DATA) / "packages/ldm");
  return pipe;
}

double relative_difference(const torch::Tensor& actual, const torch::Tensor& expected) {
  return ((actual - expected).norm() / expected.norm()).item<double>();
}

class ClassConditionalParity : public testing::TestWithParam<std::string> {};

TEST_P(ClassConditionalParity, EveryStep) {
  const auto recorded = Recorded::load(kFolder / (GetParam() + ".pt"));
  auto& pipe = pipeline();
  Helper helper(pipe);
  const auto interval = recorded.integer("cache_interval");
  if (interval > 0) {
    helper.set_params(
        {.cache_interval = interval, .cache_branch_id = recorded.integer("cache_branch_id"), .forecast_order = 0});
    helper.enable();
  }
  std::vector<torch::Tensor> steps;
  std::vector<double> timesteps;
  const auto result =
      pipe(recorded.integers("class_labels"), {.num_images_per_label = recorded.integer("num_images_per_label"),
                                               .num_inference_steps = recorded.integer("num_inference_steps"),
                                               .guidance_scale = recorded.number("guidance_scale"),
                                               .height = recorded.integer("height") * pipe.vae_scale_factor(),
                                               .width = recorded.integer("width") * pipe.vae_scale_factor(),
                                               .seeds = {static_cast<std::uint64_t>(recorded.integer("seed"))},
                                               .eta = recorded.number("eta"),
                                               .callback = [&](const PipelineStep& step) {
                                                 steps.push_back(step.latents);
                                                 timesteps.push_back(step.timestep);
                                                 return true;
                                               }});

  EXPECT_EQ(timesteps, recorded.numbers("timesteps"));
  const auto expected = recorded.tensor("step_latents");
  ASSERT_EQ(static_cast<std::int64_t>(steps.size()), expected.size(0));
  for (std::int64_t i = 0; i < expected.size(0); ++i)
    EXPECT_LT(relative_difference(steps[static_cast<std::size_t>(i)], expected[i]), kTolerance) << "step " << i;
  EXPECT_LT(relative_difference(result.latents, recorded.tensor("latents")), kTolerance);
  if (interval > 0) {
    std::vector<std::int64_t> full_calls, expected_full_calls;
    const auto stats = helper.stats();
    for (std::size_t i = 0; i < stats.steps.size(); ++i)
      if (stats.steps[i].full) full_calls.push_back(static_cast<std::int64_t>(i));
    const auto calls = recorded.at("full_calls").toListRef();
    for (const c10::IValue& call : calls) expected_full_calls.push_back(call.toInt());
    EXPECT_EQ(full_calls, expected_full_calls);
  }
  if (recorded.has("image")) expect_tensor_near(result.images, recorded.tensor("image"), kTolerance);
}

INSTANTIATE_TEST_SUITE_P(Recorded, ClassConditionalParity, testing::ValuesIn(case_names()),
                         [](const auto& test) { return test.param; });

}  // namespace
}  // namespace deepcache::class_conditional_test
