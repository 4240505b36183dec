#include "deepcache/compare.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <nlohmann/json.hpp>

#include "deepcache/image.hpp"
#include "expect_error.hpp"
#include "io/line_chart.hpp"
#include "pipelines/likeness.hpp"

namespace deepcache::compare_test {
namespace {

std::size_t count(const std::string& text, const std::string& part) {
  std::size_t number = 0;
  for (auto at = text.find(part); at != std::string::npos; at = text.find(part, at + 1)) ++number;
  return number;
}

class Compare : public testing::Test {
 protected:
  CompareRequest request() const {
    return {.model = "small <one>",
            .prompts = {"red heart", "sun & \"moon\""},
            .params = {.num_inference_steps = 8, .height = 64, .width = 64},
            .intervals = {2, 4},
            .tolerances = {0.05}};
  }
  void refuse(const std::function<void(CompareRequest&)>& edit, const std::string& message) {
    auto asked = request();
    edit(asked);
    expect_error<std::invalid_argument>([&] { compare(pipe, asked); }, {message});
  }
  StableDiffusionPipeline pipe =
      StableDiffusionPipeline::load(std::filesystem::path(DEEPCACHE_TEST_DATA) / "packages/one_layer");
};

TEST_F(Compare, SaysOfEachWayWhatRunningItGives) {
  auto asked = request();
  asked.further = {
      {.name = "first step only", .kind = "mine", .cache = {.skip_mode = SkipMode::kList, .full_steps = {0}}}};
  const auto comparison = compare(pipe, asked);
  ASSERT_EQ(comparison.ways.size(), 12U);
  std::vector<std::string> names;
  for (const auto& result : comparison.ways) names.push_back(result.way.name);
  EXPECT_EQ(std::vector(names.begin(), names.begin() + 10),
            (std::vector<std::string>{"full", "DeepCache, every 2", "DeepCache, every 4", "forecast, every 2",
                                      "forecast, every 4", "even, 1 of 4", "output, 1 of 2", "output, 1 of 4",
                                      "adaptive, 0.05", "first step only"}));

  Helper helper(pipe);
  helper.enable();
  for (const auto& result : comparison.ways) {
    SCOPED_TRACE(result.way.name);
    double psnr_db = 0, error = 0, full_steps = 0;
    for (const auto& prompt : asked.prompts) {
      helper.set_params({});
      const auto full = pipe(prompt, asked.params);
      helper.set_params(result.way.cache);
      auto params = asked.params;
      if (result.way.num_inference_steps != 0) params.num_inference_steps = result.way.num_inference_steps;
      const auto run = pipe(prompt, params);
      psnr_db += std::min(100.0, psnr(run.images, full.images)) / 2;
      error += ((run.latents - full.latents).norm() / full.latents.norm()).item<double>() / 2;
      full_steps += static_cast<double>(helper.stats().full_steps) / 2;
    }
    EXPECT_NEAR(result.score.psnr_db, psnr_db, 1e-9);
    EXPECT_NEAR(result.score.latent_error, error, 1e-6);
    EXPECT_EQ(result.score.full_steps, full_steps);
    EXPECT_GT(result.score.milliseconds, 0);
    EXPECT_EQ(result.prompts.size(), 2U);
    EXPECT_EQ(result.pictures.size(), 2U);
    EXPECT_EQ(result.step_errors.size(), result.way.kind == "fewer steps" ? 0U : 8U);
    if (!result.step_errors.empty()) {
      EXPECT_NEAR(result.step_errors.back(), error, 1e-6);
    }
  }
  const auto& full = comparison.ways[0].score;
  EXPECT_EQ(full.psnr_db, 100);
  EXPECT_EQ(full.speedup, 1);
  EXPECT_EQ(full.macs_speedup, 1);
  EXPECT_EQ(full.cache_bytes, 0);
  EXPECT_GT(comparison.ways[1].score.cache_bytes, 0);
}

TEST_F(Compare, FewerStepsCostAsMuch) {
  const auto comparison = compare(pipe, request());
  for (std::size_t i = 0; i < 2; ++i) {
    const auto& cached = comparison.ways.at(1 + i).score;
    const auto& fewer = comparison.ways.at(9 + i);
    EXPECT_EQ(fewer.way.kind, "fewer steps");
    EXPECT_EQ(fewer.score.cached_steps, 0);
    EXPECT_NEAR(fewer.score.full_steps, 8 / cached.macs_speedup, 0.5);
    EXPECT_NEAR(fewer.score.macs_speedup, 8 / fewer.score.full_steps, 1e-9);
  }
}

TEST_F(Compare, IsShownAsTablePageAndSheet) {
  const auto comparison = compare(pipe, request());
  const auto table = comparison.table();
  EXPECT_EQ(count(table, "\n"), comparison.ways.size());
  for (const auto& result : comparison.ways) EXPECT_EQ(count(table, "\n" + result.way.name + " "), 1U);

  const auto json = nlohmann::json::parse(comparison.json());
  EXPECT_EQ(json["request"]["prompts"], request().prompts);
  ASSERT_EQ(json["ways"].size(), comparison.ways.size());
  EXPECT_EQ(json["ways"][4]["name"], "forecast, every 4");
  EXPECT_EQ(json["ways"][4]["cache"]["policy"], make_uniform_policy(4)->describe());
  EXPECT_EQ(json["ways"][4]["steps"], 8);
  EXPECT_EQ(json["ways"][4]["psnr_db"], comparison.ways[4].score.psnr_db);
  EXPECT_EQ(json["ways"][4]["prompts"][1]["psnr_db"], comparison.ways[4].prompts[1].psnr_db);

  const auto page = comparison.html();
  EXPECT_EQ(count(page, "small &lt;one&gt;"), 2U);
  EXPECT_EQ(count(page, "sun &amp; &quot;moon&quot;"), 1U);
  EXPECT_EQ(count(page, "data:image/png;base64,iVBORw0KGgo"), 2 * comparison.ways.size());
  EXPECT_EQ(count(page, "<svg"), 2U);
  EXPECT_EQ(count(page, "<polyline"), 6U + 8U);  // kinds, and ways of as many steps as the full one
  EXPECT_EQ(count(page, "http"), 0U);

  const auto sheet = comparison.contact_sheet();
  EXPECT_GT(sheet.size(2), 8 * 128);
  EXPECT_GT(sheet.size(1), 2 * 128);
}

TEST_F(Compare, LargePicturesAreShownSmaller) {
  Comparison comparison{.prompts = {"red heart"}, .ways = {{.way = {.name = "full"}}}};
  comparison.ways[0].pictures = {torch::zeros({3, 1024, 512})};
  EXPECT_LT(comparison.contact_sheet().size(1), 256 + 100);
  EXPECT_GT(comparison.contact_sheet().size(1), 256);
}

TEST_F(Compare, EndsWhereTheCallbackSays) {
  auto asked = request();
  std::int64_t runs = 0;
  asked.on_run = [&](std::int64_t run, std::int64_t num_runs, const Way&) {
    EXPECT_EQ(run, runs++);
    EXPECT_EQ(num_runs, 22);
  };
  asked.params.callback = [&](const PipelineStep&) { return runs <= 12; };
  const auto comparison = compare(pipe, asked);
  EXPECT_EQ(comparison.prompts, (std::vector<std::string>{"red heart"}));
  for (const auto& result : comparison.ways) EXPECT_EQ(result.prompts.size(), 1U);

  runs = 0;
  asked.params.callback = [](const PipelineStep&) { return false; };
  const auto none = compare(pipe, asked);
  EXPECT_TRUE(none.ways.empty());
  expect_error<std::invalid_argument>([&] { none.contact_sheet(); }, {"no prompt was run"});
  expect_error<std::invalid_argument>([&] { none.html(); }, {"no prompt was run"});
}

TEST_F(Compare, GivenLatentsAreEachPrompts) {
  auto asked = request();
  asked.intervals = {4};
  asked.tolerances.clear();
  asked.params.latents = torch::ones({1, 4, 8, 8});
  EXPECT_EQ(compare(pipe, asked).prompts, asked.prompts);
}

TEST_F(Compare, LeavesOutNumbersOfStepsThatTheSchedulerCannotMake) {
  auto asked = request();
  asked.intervals = {2, 3, 4, 8};
  asked.tolerances.clear();
  const auto counts = [&] {
    std::vector<std::int64_t> fewer;
    for (const auto& result : compare(pipe, asked).ways)
      if (result.way.kind == "fewer steps") fewer.push_back(result.way.num_inference_steps);
    return fewer;
  };
  pipe.set_scheduler("ddim");
  auto expected = counts();
  EXPECT_EQ(std::erase(expected, 3), 1U);
  pipe.set_scheduler("compvis_ddim");  // 3 steps would begin at timestep 1000
  EXPECT_EQ(counts(), expected);
}

TEST(FinitePsnr, IsANumber) {
  const auto picture = torch::rand({3, 4, 4});
  EXPECT_EQ(finite_psnr(picture, picture), 100);
  EXPECT_EQ(finite_psnr(picture / 0 * 0, picture), 0);
}

TEST_F(Compare, SaysWhatIsWrong) {
  refuse([](auto& asked) { asked.prompts.clear(); }, "one prompt or more, got none");
  refuse([](auto& asked) { asked.params.decode = false; }, "decode must be true");
  refuse([](auto& asked) { asked.intervals = {3, 1}; }, "intervals must be 2 or above, got 1");
  refuse([](auto& asked) { asked.tolerances = {1}; }, "adaptive, 1: tolerance must be above 0 and below 1, got 1");
  refuse([](auto& asked) { asked.forecast_order = 0; }, "forecast_order must be 1 or 2 here, got 0");
  refuse([](auto& asked) { asked.forecast_order = 3; }, "forecast_order must be 0 to 2, got 3");
  refuse([](auto& asked) { asked.cache_branch_id = -1; }, "0 or above, got -1: the whole output is run in any case");
  refuse(
      [](auto& asked) {
        asked.further = {{.name = "mine", .cache = {.skip_mode = SkipMode::kList, .full_steps = {0}, .num_steps = 9}}};
      },
      "mine: the full steps are for runs of 9 calls of the UNet, got a run of 8");
  refuse([](auto& asked) { asked.cache_branch_id = 8; }, "cache_branch_id must be 0 to 7");
  refuse([](auto& asked) { asked.params.num_inference_steps = 0; }, "number of inference steps must be from 1");
  refuse([](auto& asked) { asked.further = {{.name = "mine", .cache = {.cache_branch_id = 50}}}; },
         "mine: cache_branch_id must be 0 to 7");
}

TEST(LineChart, PlacesPointsBetweenTheAxes) {
  const auto svg = draw_svg({.x_label = "a < b",
                             .y_label = "y",
                             .markers = true,
                             .lines = {{.name = "l", .color = "red", .points = {{0, 10}, {10, 20}}}}});
  EXPECT_EQ(count(svg, "a &lt; b"), 1U);
  EXPECT_EQ(count(svg, "points='60.0,330.0 530.0,12.0 '"), 1U) << svg;
  EXPECT_EQ(count(svg, "<circle"), 2U);
  EXPECT_EQ(count(svg, ">20</text>"), 1U);
}

TEST(LineChart, GrowsWithItsLegend) {
  LineChart chart{.x_label = "x", .y_label = "y", .lines = {}};
  EXPECT_EQ(count(draw_svg(chart), "viewBox='0 0 760 380'"), 1U);
  for (int i = 0; i < 30; ++i) chart.lines.push_back({.name = "l", .color = "red", .points = {{0, 0}}});
  EXPECT_EQ(count(draw_svg(chart), "viewBox='0 0 760 564'"), 1U);
}

TEST(LineChart, LeavesOutWhatHasNoLogarithm) {
  const double nan = std::nan("");
  const auto svg =
      draw_svg({.x_label = "x",
                .y_label = "y",
                .log_y = true,
                .lines = {{.name = "l", .color = "red", .points = {{0, 0}, {0, 0.01}, {5, nan}, {10, 1}}}}});
  EXPECT_EQ(count(svg, "points='60.0,330.0 530.0,12.0 '"), 1U) << svg;
  EXPECT_EQ(count(svg, ">0.1</text>"), 1U);
  EXPECT_EQ(count(svg, "nan"), 0U);
  // None at all, or all alike.
  EXPECT_EQ(count(draw_svg({.x_label = "x", .y_label = "y", .lines = {}}), "nan"), 0U);
  const auto one =
      draw_svg({.x_label = "x", .y_label = "y", .lines = {{.name = "l", .color = "red", .points = {{3, 3}}}}});
  EXPECT_EQ(count(one, "nan") + count(one, "inf"), 0U) << one;
}

}  // namespace
}  // namespace deepcache::compare_test
