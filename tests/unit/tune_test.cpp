#include "deepcache/tune.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <utility>

#include "deepcache/image.hpp"
#include "deepcache/logging.hpp"
#include "expect_error.hpp"
#include "io/files.hpp"
#include "networks.hpp"
#include "pipelines/search_policy.hpp"
#include "temporary_folder.hpp"

namespace deepcache::tune_test {
namespace {

using FullSteps = std::vector<std::int64_t>;

TEST(SpreadFullSteps, Evenly) {
  EXPECT_EQ(spread_full_steps(50, 5), (FullSteps{0, 10, 20, 30, 40}));
  EXPECT_EQ(spread_full_steps(10, 3), (FullSteps{0, 3, 6}));
  EXPECT_EQ(spread_full_steps(3, 3), (FullSteps{0, 1, 2}));
}

TEST(SearchFullSteps, FindsAPlaceThatNoSingleMoveBetters) {
  const FullSteps best{0, 9, 31, 46};
  int tries = 0;
  std::int64_t done = 0;
  const auto score = [&](const FullSteps& full_steps, const SearchPass& pass) {
    ++tries;
    EXPECT_EQ(full_steps[0], 0);
    if (pass.moves_done > 0) {
      EXPECT_EQ(pass.moves, 2 * (std::ssize(full_steps) - 1));
      EXPECT_TRUE(pass.moves_done > done || pass.moves_done <= 2) << pass.moves_done << " after " << done;
      EXPECT_LE(pass.moves_done, pass.moves);
    }
    done = pass.moves_done;
    double distance = 0;
    for (std::size_t k = 0; k < full_steps.size(); ++k)
      distance += std::abs(static_cast<double>(full_steps[k] - best[k]));
    return -distance;
  };
  EXPECT_EQ(search_full_steps(50, spread_full_steps(50, 4), score, 0.5), best);
  EXPECT_LT(tries, 150);
  // Where nothing gains as much, all stay where they are.
  EXPECT_EQ(search_full_steps(50, spread_full_steps(50, 4), score, 3), spread_full_steps(50, 4));
  EXPECT_EQ(search_full_steps(50, {0}, score, 0.5), (FullSteps{0}));
}

TEST(SearchShares, FindsSharesThatNoSingleMoveBetters) {
  for (const bool of_halves : {false, true}) {
    const auto score = [&](const std::vector<ForecastShares>& shares, const SearchPass& pass) {
      EXPECT_EQ(shares[0], (ForecastShares{1, 1}));
      if (pass.moves_done > 0) {
        EXPECT_EQ(pass.moves, of_halves ? 8 : 4);
      }
      return -std::abs(shares[1].common - 1.8) - std::abs(shares[2].common + 0.6) -
             std::abs(shares[2].difference - 0.2);
    };
    const auto found = search_shares({{1, 1}, {1, 1}, {1, 1}}, of_halves, score, 0.1);
    EXPECT_NEAR(found[1].common, 1.8, 1e-9);
    EXPECT_NEAR(found[2].common, 0.2, 1e-9);  // not below 0
    EXPECT_NEAR(found[2].difference, of_halves ? 0.2 : 1, 1e-9);
    EXPECT_EQ(found[1].difference, 1);
    EXPECT_EQ(search_shares({{1, 1}, {1, 1}, {1, 1}}, of_halves, score, 0.5)[1], (ForecastShares{1, 1}));
  }
}

class PolicyFile : public testing::Test {
 protected:
  void refuse(const std::function<void(nlohmann::json&)>& edit, const std::string& message) {
    save_policy(policy, file);
    auto json = read_json(file);
    edit(json);
    write_file(file, json.dump());
    expect_error<std::runtime_error>([&] { load_policy(file); }, {file.string(), message});
  }
  TemporaryFolder folder;
  std::filesystem::path file = folder.path() / "policy.json";
  TunedPolicy policy{.num_branches = 12,
                     .cache_branch_id = 3,
                     .forecast_order = 2,
                     .scheduler = "DDIMScheduler",
                     .num_inference_steps = 5,
                     .num_steps = 5,
                     .full_steps = {0, 1, 4},
                     .forecast_shares = {{1, 1}, {0.5, -0.25}, {1.2, 0.1}}};
};

TEST_F(PolicyFile, IsWhatWasSaved) {
  save_policy(policy, file);
  const auto loaded = load_policy(file);
  EXPECT_EQ(loaded.num_branches, 12);
  const auto unet = test_unet();
  const auto params = loaded.cache_params(unet);
  EXPECT_EQ(params.cache_branch_id, 3);
  EXPECT_EQ(params.forecast_order, 2);
  EXPECT_EQ(params.forecast_shares, policy.forecast_shares);
  Helper helper(unet);
  helper.set_params(params);
  helper.enable();
  unet.begin_run(torch::tensor({9, 8, 7, 6, 5}));
  for (int i = 0; i < 5; ++i) unet.forward(unet_inputs("sd1", i));
  FullSteps full;
  for (const auto& step : helper.stats().steps)
    if (step.full) full.push_back(step.step_index);
  EXPECT_EQ(full, policy.full_steps);
}

TEST_F(PolicyFile, MayBeOfTheWholeOutput) {
  policy.cache_branch_id = kWholeOutput;
  save_policy(policy, file);
  EXPECT_EQ(load_policy(file).cache_params(test_unet()).cache_branch_id, kWholeOutput);
  refuse([](auto& json) { json["cache_branch_id"] = -2; }, "cache_branch_id");
}

TEST_F(PolicyFile, IsForOneKindOfUNetAndRun) {
  policy.num_branches = 9;
  policy.cache_branch_id = 0;
  const auto unet = test_unet();
  expect_error<std::invalid_argument>([&] { policy.cache_params(unet); }, {"of 9 branches, got one of 12"});
  policy.num_branches = 12;
  Helper helper(unet);
  helper.enable();
  unet.begin_run(torch::zeros(20));
  helper.set_params(policy.cache_params(unet));  // for a next run
  expect_error<std::invalid_argument>([&] { unet.begin_run(torch::zeros(20)); },
                                      {"for runs of 5 calls of the UNet, got a run of 20"});
}

TEST_F(PolicyFile, OfAPackageIsForRunsAsItWasTunedWith) {
  EXPECT_FALSE(package_policy(folder.path(), "DDIMScheduler", 5));
  save_policy(policy, file);
  EXPECT_EQ(package_policy(folder.path(), "DDIMScheduler", 5)->full_steps, policy.full_steps);
  EXPECT_FALSE(package_policy(folder.path(), "DDIMScheduler", 6));
  EXPECT_FALSE(package_policy(folder.path(), "PNDMScheduler", 5));
  write_file(file, "{}");
  expect_error<std::runtime_error>([&] { package_policy(folder.path(), "DDIMScheduler", 5); }, {file.string()});
}

TEST_F(PolicyFile, SaysWhatIsWrong) {
  refuse([](auto& json) { json = nlohmann::json::array(); }, "must be a JSON object");
  refuse([](auto& json) { json["format_version"] = 1; }, "format_version must be 2, got 1");
  refuse([](auto& json) { json.erase("num_steps"); }, "\"num_steps\" is missing");
  refuse([](auto& json) { json["scheduler"] = 3; }, "\"scheduler\" must be there, and a name");
  refuse([](auto& json) { json.erase("scheduler"); }, "\"scheduler\" must be there");
  refuse([](auto& json) { json["num_inference_steps"] = 0; }, "num_inference_steps");
  refuse([](auto& json) { json["cache_branch_id"] = 12; }, "cache_branch_id");
  refuse([](auto& json) { json["forecast_order"] = 3; }, "forecast_order");
  refuse([](auto& json) { json["num_branches"] = 0; }, "num_branches");
  refuse([](auto& json) { json.erase("full_steps"); }, "\"full_steps\" is missing");
  refuse([](auto& json) { json["full_steps"] = {1, 2}; }, "must begin with 0, got [1, 2]");
  refuse([](auto& json) { json["full_steps"] = {0, 2, 2}; }, "must rise, got [0, 2, 2]");
  refuse([](auto& json) { json["full_steps"] = {0, 1.5}; }, "a list of integers");
  refuse([](auto& json) { json["full_steps"] = {0, 1, 5}; }, "must be below num_steps, 5, got 5");
  refuse([](auto& json) { json["forecast_shares"][1] = 1; }, "must be pairs of numbers, got 1");
  refuse([](auto& json) { json["forecast_shares"][1] = {1, "a"}; }, "must be pairs of numbers, got [1,\"a\"]");
  refuse([](auto& json) { json["forecast_shares"].erase(0); }, "each of the 3 full steps, got 2");
  expect_error<std::runtime_error>([&] { load_policy(folder.path() / "none.json"); }, {"none.json"});
}

class Tune : public testing::Test {
 protected:
  TuneRequest request() const {
    return {.prompts = {"red heart", "panda", "sun"},
            .params = {.num_inference_steps = 8, .height = 64, .width = 64},
            .full_steps = 3};
  }
  void refuse(const std::function<void(TuneRequest&)>& edit, const std::string& message) {
    auto asked = request();
    edit(asked);
    expect_error<std::invalid_argument>([&] { tune(pipe, asked); }, {message});
  }
  TemporaryFolder folder;
  StableDiffusionPipeline pipe =
      StableDiffusionPipeline::load(std::filesystem::path(DEEPCACHE_TEST_DATA) / "packages/one_layer");
};

TEST_F(Tune, IsNotWorseThanEvenlySpread) {
  const auto result = tune(pipe, request());
  ASSERT_EQ(result.points.size(), 1U);
  EXPECT_EQ(result.points[0].policy.full_steps.size(), 3U);
  EXPECT_GE(result.points[0].tuned_psnr_db, result.points[0].uniform_psnr_db);
  EXPECT_TRUE(std::isfinite(result.points[0].held_out_psnr_db));
  EXPECT_EQ(result.best.policy.full_steps.size(), 3U);
  EXPECT_EQ(result.best.policy.num_steps, 8);
  EXPECT_EQ(result.best.policy.num_branches, pipe.unet().num_branches());

  // What it says of its policy is what running it gives.
  Helper helper(pipe);
  const auto params = request().params;
  double sum = 0;
  for (const auto* prompt : {"red heart", "panda"}) {
    const auto full = pipe(prompt, params).images;
    helper.set_params(result.best.policy.cache_params(pipe.unet()));
    helper.enable();
    sum += psnr(pipe(prompt, params).images, full);
    helper.disable();
  }
  EXPECT_NEAR(sum / 2, result.points[0].tuned_psnr_db, 1e-9);
}

TEST_F(Tune, FitsSharesOfTheDifferenceWhereTheRunIsGuided) {
  for (const auto& [guidance_scale, guided] :
       {std::pair<std::optional<double>, bool>{{}, true}, {3.0, true}, {1.0, false}}) {  // the model's own is above 1
    auto asked = request();
    asked.params.guidance_scale = guidance_scale;
    std::set<double> common, difference;
    asked.on_try = [&](const TuneTry& tried) {
      for (const auto& shares : tried.forecast_shares) {
        common.insert(shares.common);
        difference.insert(shares.difference);
      }
    };
    tune(pipe, asked);
    EXPECT_GT(common.size(), 1U);
    EXPECT_EQ(difference.size() > 1, guided) << guidance_scale.value_or(0);
  }
}

TEST_F(Tune, GoesOnFromWhatWasTried) {
  auto asked = request();
  asked.progress = folder.path() / "progress.json";
  std::int64_t tries = 0;
  asked.on_try = [&](const TuneTry& tried) { tries = tried.tries; };
  const auto first = tune(pipe, asked);
  EXPECT_GT(tries, 2);
  // A try that never was: the file is believed.
  auto json = read_json(asked.progress);
  for (auto& tried : json["tries"]) tried[3] = tried[1] == nlohmann::json{0, 2, 5} ? 70.0 : 10.0;
  write_file(asked.progress, json.dump());
  const auto second = tune(pipe, asked);
  EXPECT_EQ(second.points[0].uniform_psnr_db, 70);
  EXPECT_EQ(second.best.policy.full_steps, (FullSteps{0, 2, 5}));

  asked.params.negative_prompt = "blue";
  expect_error<std::invalid_argument>([&] { tune(pipe, asked); }, {"progress.json is what another request's"});
  asked.params.negative_prompt = "";  // SDXL takes zeros where there is none
  expect_error<std::invalid_argument>([&] { tune(pipe, asked); }, {"progress.json is what another request's"});
  asked.params.negative_prompt.reset();
  asked.model = "another";
  expect_error<std::invalid_argument>([&] { tune(pipe, asked); }, {"progress.json is what another request's"});
  asked.model.clear();
  asked.params.latents = torch::ones({1, 4, 8, 8});
  expect_error<std::invalid_argument>([&] { tune(pipe, asked); }, {"progress.json is what another request's"});
  asked.params.latents = torch::Tensor();
  json["tries"] = {{0, {0}}};
  write_file(asked.progress, json.dump());
  expect_error<std::runtime_error>([&] { tune(pipe, asked); }, {"isn't what an earlier tuning left"});
  asked.params.num_inference_steps = 9;
  expect_error<std::invalid_argument>([&] { tune(pipe, asked); }, {"progress.json is what another request's"});
  write_file(asked.progress, "{}");
  expect_error<std::runtime_error>([&] { tune(pipe, asked); }, {"isn't what an earlier tuning left"});
}

TEST_F(Tune, LooksForASpeedupOrAPsnr) {
  auto asked = request();
  asked.full_steps.reset();
  asked.speedup = 1.5;
  const auto fast = tune(pipe, asked);
  EXPECT_TRUE(fast.reached);
  EXPECT_GE(fast.best.speedup, 1.5);
  asked.speedup = 1000;
  const auto fastest = tune(pipe, asked);
  EXPECT_FALSE(fastest.reached);
  EXPECT_EQ(fastest.best.policy.full_steps, (FullSteps{0}));

  asked.speedup.reset();
  asked.min_psnr = 1;
  const auto poor = tune(pipe, asked);
  EXPECT_TRUE(poor.reached);
  EXPECT_EQ(poor.points.size(), 1U);
  asked.min_psnr = 1000;
  const auto perfect = tune(pipe, asked);
  EXPECT_FALSE(perfect.reached);
  EXPECT_EQ(perfect.points.front().policy.full_steps.size(), 7U);
  for (std::size_t i = 1; i < perfect.points.size(); ++i)
    EXPECT_LT(perfect.points[i].policy.full_steps.size(), perfect.points[i - 1].policy.full_steps.size());
  for (const auto& point : perfect.points) EXPECT_LE(point.tuned_psnr_db, perfect.best.tuned_psnr_db);

  const auto six =
      std::ranges::find(perfect.points, 6U, [](const auto& point) { return point.policy.full_steps.size(); });
  ASSERT_NE(six, perfect.points.end());
  asked.min_psnr = six->tuned_psnr_db;
  const auto near = tune(pipe, asked);
  EXPECT_TRUE(near.reached);
  const auto fewest = near.best.policy.full_steps.size();
  EXPECT_LE(fewest, 6U);
  const auto tried_before =
      std::ranges::find(near.points, fewest - 1, [](const auto& point) { return point.policy.full_steps.size(); });
  ASSERT_NE(tried_before, near.points.end());
  EXPECT_LT(tried_before->tuned_psnr_db, *asked.min_psnr);
}

TEST_F(Tune, TriesBranches) {
  auto asked = request();
  asked.cache_branch_ids = {0, 3};
  const auto both = tune(pipe, asked);
  ASSERT_EQ(both.points.size(), 2U);
  EXPECT_EQ(both.points[1].policy.cache_branch_id, 0);  // the faster one
  EXPECT_GT(both.points[1].speedup, both.points[0].speedup);
  EXPECT_TRUE(both.points[1].on_front);
  EXPECT_EQ(both.points[0].on_front, both.points[0].tuned_psnr_db > both.points[1].tuned_psnr_db);
  for (const auto& point : both.points) {
    asked.cache_branch_ids = {point.policy.cache_branch_id};
    const auto alone = tune(pipe, asked);
    EXPECT_EQ(alone.best.policy.full_steps, point.policy.full_steps);
    EXPECT_EQ(alone.best.tuned_psnr_db, point.tuned_psnr_db);
    EXPECT_LE(point.tuned_psnr_db, both.best.tuned_psnr_db);
  }
  // The fastest of those that are near enough.
  asked.cache_branch_ids = {0, 3};
  asked.full_steps.reset();
  asked.min_psnr = 1;
  const auto poor = tune(pipe, asked);
  EXPECT_EQ(poor.best.policy.cache_branch_id, 0);
  EXPECT_EQ(poor.points.size(), 1U);  // the other can't be faster
}

TEST_F(Tune, TriesTheWholeOutput) {
  auto asked = request();
  asked.cache_branch_ids = {0, kWholeOutput};
  const auto both = tune(pipe, asked);
  ASSERT_EQ(both.points.size(), 2U);
  EXPECT_EQ(both.points[1].policy.cache_branch_id, kWholeOutput);
  EXPECT_DOUBLE_EQ(both.points[1].speedup, 8.0 / 3);
  asked.full_steps.reset();
  asked.speedup = 2.6;  // by a branch, two full steps alone reach that
  const auto fast = tune(pipe, asked);
  for (const auto& point : fast.points)
    EXPECT_EQ(point.policy.full_steps.size(), point.policy.cache_branch_id == kWholeOutput ? 3U : 2U);
}

TEST_F(Tune, WarnsOfTooFewPrompts) {
  auto asked = request();
  asked.progress = folder.path() / "progress.json";
  tune(pipe, asked);
  // Tries that never were, which lead to where nothing is refreshed for long.
  auto json = read_json(asked.progress);
  json["tries"] = nlohmann::json::array();
  double db = 70;
  for (const auto& steps : {FullSteps{0, 2, 5}, {0, 2, 6}, {0, 2, 7}, {0, 3, 7}, {0, 4, 7}, {0, 5, 7}, {0, 6, 7}})
    json["tries"].push_back({0, steps, nlohmann::json::array(), db++});
  write_file(asked.progress, json.dump());
  testing::internal::CaptureStderr();
  enable_logging();
  const auto result = tune(pipe, asked);
  const auto warning = testing::internal::GetCapturedStderr();
  EXPECT_EQ(result.best.policy.full_steps, (FullSteps{0, 6, 7}));
  EXPECT_NE(warning.find("2 prompts are too few to tune on"), std::string::npos) << warning;
}

TEST_F(Tune, SaysWhatIsWrong) {
  refuse([](auto& asked) { asked.prompts = {"sun"}; }, "two prompts or more, got 1");
  refuse([](auto& asked) { asked.full_steps.reset(); }, "must be given, got 0");
  refuse([](auto& asked) { asked.speedup = 2; }, "must be given, got 2");
  refuse([](auto& asked) { asked.full_steps = 0; }, "full_steps must be 1 to the run's 8 calls of the UNet, got 0");
  refuse([](auto& asked) { asked.full_steps = 9; }, "got 9");
  refuse([](auto& asked) { asked.params.decode = false; }, "decode must be true");
  refuse([](auto& asked) { asked.params.callback = [](const PipelineStep&) { return true; }; }, "none is allowed");
  refuse([](auto& asked) { asked.cache_branch_ids = {0, 50}; }, "cache_branch_id must be");
  refuse([](auto& asked) { asked.cache_branch_ids.clear(); }, "one cache_branch_id or more, got none");
  refuse([](auto& asked) { asked.forecast_order = 3; }, "forecast_order must be 0 to 2, got 3");
  refuse([](auto& asked) { asked.params.num_inference_steps = 0; }, "number of inference steps must be from 1");
  const auto of = [&](std::optional<double> TuneRequest::*target, double value, const std::string& message) {
    refuse(
        [&](auto& asked) {
          asked.full_steps.reset();
          asked.*target = value;
        },
        message);
  };
  of(&TuneRequest::speedup, 1, "speedup must be above 1, got 1");
  of(&TuneRequest::min_psnr, std::nan(""), "min_psnr must be finite");
}

}  // namespace
}  // namespace deepcache::tune_test
