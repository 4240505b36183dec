#include "deepcache/cache_policy.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <limits>
#include <nlohmann/json.hpp>
#include <optional>
#include <vector>

#include "expect_error.hpp"
#include "io/files.hpp"

namespace deepcache::cache_policy_test {
namespace {

struct UniformCase {
  std::int64_t interval;
  std::int64_t steps;
  std::vector<std::int64_t> full_steps;
  const char* description;
};

class UniformPolicyTest : public testing::TestWithParam<UniformCase> {};

std::vector<std::int64_t> full_steps_of(const CachePolicy& policy, std::int64_t num_steps) {
  std::vector<std::int64_t> full_steps;
  for (std::int64_t i = 0; i < num_steps; ++i)
    if (policy.is_full_step(i)) full_steps.push_back(i);
  return full_steps;
}

TEST_P(UniformPolicyTest, FullSteps) {
  const auto& param = GetParam();
  const auto policy = make_uniform_policy(param.interval);
  EXPECT_EQ(full_steps_of(*policy, param.steps), param.full_steps);
  EXPECT_EQ(policy->describe(), param.description);
}

INSTANTIATE_TEST_SUITE_P(Table, UniformPolicyTest,
                         testing::Values(UniformCase{1, 4, {0, 1, 2, 3}, "every step"},
                                         UniformCase{2, 5, {0, 2, 4}, "uniform, every 2 steps"},
                                         UniformCase{3, 10, {0, 3, 6, 9}, "uniform, every 3 steps"},
                                         UniformCase{5, 5, {0}, "uniform, every 5 steps"},
                                         UniformCase{100, 50, {0}, "uniform, every 100 steps"}));

TEST(UniformPolicyErrors, IntervalBelowOne) {
  for (const std::int64_t interval : {0, -1})
    expect_error<std::invalid_argument>([&] { make_uniform_policy(interval); },
                                        {"cache_interval must be 1 or above, got " + std::to_string(interval)});
}

using FullSteps = std::optional<std::vector<std::int64_t>>;

/// Of a case of the original's, nothing if there is no solution.
FullSteps full_steps_of(const nlohmann::json& recorded) {
  const std::int64_t steps = recorded.at("num_steps"), interval = recorded.at("cache_interval");
  const double pow = recorded.at("pow");
  try {
    return full_steps_of(recorded.contains("center") ? *make_center_policy(steps, interval, recorded["center"], pow)
                                                     : *make_quad_policy(steps, interval, pow),
                         steps);
  } catch (const std::invalid_argument& error) {
    EXPECT_NE(std::string(error.what()).find("different full steps"), std::string::npos) << error.what();
    return std::nullopt;
  }
}

TEST(NonUniformPolicy, FullStepsAreTheOriginals) {
  const auto recorded = read_json(std::filesystem::path(DEEPCACHE_TEST_DATA) / "policies.json");
  ASSERT_GT(recorded.at("cases").size(), 500U);
  std::size_t unsolved = 0;
  for (const auto& entry : recorded.at("cases")) {
    const auto& expected = entry.at("full_steps");
    if (expected.is_null()) ++unsolved;
    EXPECT_EQ(full_steps_of(entry), expected.is_null() ? FullSteps() : expected.get<FullSteps::value_type>()) << entry;
  }
  EXPECT_GT(unsolved, 0U);
}

TEST(NonUniformPolicy, CenterWithSignedRealsWouldBeWrong) {
  EXPECT_EQ(full_steps_of(*make_center_policy(50, 5, 15, 1.4), 50),
            (std::vector<std::int64_t>{0, 5, 9, 13, 17, 21, 26, 31, 37, 43}));
  EXPECT_EQ(full_steps_of(*make_center_policy(50, 3, 15, 1.4), 50),
            (std::vector<std::int64_t>{0, 3, 6, 8, 11, 13, 15, 17, 20, 22, 25, 28, 32, 35, 38, 42, 46}));
}

TEST(NonUniformPolicy, DescriptionsTellRulesApart) {
  EXPECT_EQ(make_quad_policy(50, 5, 1.4)->describe(), "quad, pow 1.4, 1 of 5 steps in a run of 50");
  EXPECT_EQ(make_center_policy(40, 5, 15, 1.4)->describe(), "center 15, pow 1.4, 1 of 5 steps in a run of 40");
  EXPECT_EQ(make_quad_policy(50, 1, 1.4)->describe(), "every step");
}

TEST(NonUniformPolicy, BeyondTheRunEveryStepIsFull) {
  const auto policy = make_quad_policy(10, 5, 1.4);
  EXPECT_FALSE(policy->is_full_step(9));
  EXPECT_TRUE(policy->is_full_step(10));
  EXPECT_TRUE(policy->is_full_step(1000));
}

TEST(NonUniformPolicyErrors, OutOfRange) {
  const auto expect = [](std::int64_t steps, std::int64_t interval, std::int64_t center, double pow,
                         const std::string& message) {
    expect_error<std::invalid_argument>([&] { make_center_policy(steps, interval, center, pow); }, {message});
  };
  expect(50, 0, 15, 1.4, "cache_interval must be 1 or above, got 0");
  expect(50, 5, 15, 1.0, "pow must be above 1, to 10, got 1");
  expect(50, 5, 15, std::nan(""), "pow must be above 1, to 10, got nan");
  expect(50, 5, 15, 10.5, "pow must be above 1, to 10, got 10.5");
  expect(50, 5, -1, 1.4, "center must be 0 or above, got -1");
  expect(50, 5, 51, 1.4, "center must be 0 to the run's 50 steps, got 51");
  expect(0, 5, 0, 1.4, "the number of steps must be 1 to 1000000, got 0");
  expect_error<std::invalid_argument>([] { make_quad_policy(50, 5, 0.5); }, {"pow must be above 1, to 10, got 0.5"});
}

TEST(EvenPolicy, FullFromTheFirstToTheLastStepButOne) {
  const auto full_steps = [](std::int64_t num_steps, std::int64_t interval) {
    return full_steps_of(*make_even_policy(num_steps, interval), num_steps);
  };
  EXPECT_EQ(full_steps(50, 5), (std::vector<std::int64_t>{0, 5, 11, 16, 21, 27, 32, 37, 43, 48}));
  EXPECT_EQ(full_steps(50, 10), (std::vector<std::int64_t>{0, 12, 24, 36, 48}));
  EXPECT_EQ(full_steps(50, 3), full_steps_of(*make_uniform_policy(3), 50));
  EXPECT_EQ(full_steps(4, 2), (std::vector<std::int64_t>{0, 2}));
  EXPECT_EQ(full_steps(3, 1), (std::vector<std::int64_t>{0, 1, 2}));
  EXPECT_EQ(full_steps(7, 7), (std::vector<std::int64_t>{0}));
  for (std::int64_t steps = 1; steps < 60; ++steps)
    for (std::int64_t interval = 1; interval < 12; ++interval)
      EXPECT_EQ(full_steps(steps, interval).size(), full_steps_of(*make_uniform_policy(interval), steps).size());
  EXPECT_EQ(full_steps(7, std::numeric_limits<std::int64_t>::max()), (std::vector<std::int64_t>{0}));
  EXPECT_TRUE(make_even_policy(7, 7)->is_full_step(7));
  EXPECT_EQ(make_even_policy(50, 5)->describe(), "evenly to the last step but one, 1 of 5 steps in a run of 50");
  expect_error<std::invalid_argument>([] { make_even_policy(0, 2); }, {"number of steps", "got 0"});
  expect_error<std::invalid_argument>([] { make_even_policy(9, 0); }, {"cache_interval", "got 0"});
}

TEST(ListPolicy, FullAtTheseSteps) {
  const auto policy = make_list_policy({0, 2, 7});
  EXPECT_EQ(full_steps_of(*policy, 10), (std::vector<std::int64_t>{0, 2, 7}));
  EXPECT_EQ(policy->describe(), "steps 0, 2, 7");
}

TEST(ListPolicy, HasTheSharesOfTheStepsAfterEachFullOne) {
  using Shares = std::optional<ForecastShares>;
  const auto policy = make_list_policy({0, 2, 7}, {{1, 0.5}, {0.75, 0.25}, {1.5, -1}});
  const auto windowed = make_window_policy(policy, 10, 1, 1);
  for (const auto& rule : {policy, windowed}) {
    EXPECT_EQ(rule->forecast_shares(1), Shares({1, 0.5}));
    EXPECT_EQ(rule->forecast_shares(2), Shares({1, 0.5}));  // what it would have been as a cached one
    EXPECT_EQ(rule->forecast_shares(3), Shares({0.75, 0.25}));
    EXPECT_EQ(rule->forecast_shares(9), Shares({1.5, -1}));
    EXPECT_EQ(rule->forecast_shares(0), std::nullopt);
  }
  EXPECT_EQ(make_list_policy({0, 2})->forecast_shares(1), std::nullopt);
  EXPECT_EQ(policy->describe(), "steps 0, 2, 7; forecast shares 1/0.5, 0.75/0.25, 1.5/-1");
  expect_error<std::invalid_argument>([] { make_list_policy({0, 2}, {{1, 1}}); }, {"each of the 2 full steps, got 1"});
  expect_error<std::invalid_argument>([] { make_list_policy({0}, {{1, NAN}}); }, {"must be finite, got 1 and nan"});
}

TEST(ListPolicy, BeginsWithZeroAndRises) {
  for (const auto& [steps, message] : {std::pair<std::vector<std::int64_t>, std::string>{{}, "begin with 0, got []"},
                                       {{1, 2}, "begin with 0, got [1, 2]"},
                                       {{-1, 0}, "begin with 0, got [-1, 0]"},
                                       {{0, 3, 3}, "must rise, got [0, 3, 3]"},
                                       {{0, 4, 2}, "must rise, got [0, 4, 2]"}})
    expect_error<std::invalid_argument>([&] { make_list_policy(steps); }, {message});
}

TEST(TimestepPolicy, FullAtADistance) {
  const auto policy = make_timestep_policy(std::vector<double>{900, 850, 801, 800, 700, 699, 10}, 100);
  EXPECT_EQ(full_steps_of(*policy, 9), (std::vector<std::int64_t>{0, 3, 4, 6, 7, 8}));  // unknown ones too
  EXPECT_EQ(policy->describe(), "every 100 timesteps, 4 of 7 steps");
  for (const double distance : {0.0, -1.0, std::nan(""), std::numeric_limits<double>::infinity()})
    expect_error<std::invalid_argument>([&] { make_timestep_policy({}, distance); }, {"above 0, got"});
}

TEST(WindowPolicy, FullAtBothEnds) {
  const auto policy = make_window_policy(make_uniform_policy(5), 12, 2, 1);
  EXPECT_EQ(full_steps_of(*policy, 12), (std::vector<std::int64_t>{0, 1, 5, 10, 11}));
  EXPECT_EQ(policy->describe(), "uniform, every 5 steps; the first 2 and last 1 of 12 full");
  expect_error<std::invalid_argument>([&] { make_window_policy(nullptr, 12, 2, 1); }, {"needs a policy"});
  expect_error<std::invalid_argument>([&] { make_window_policy(policy, 0, 2, 1); }, {"1 or above, got 0"});
  expect_error<std::invalid_argument>([&] { make_window_policy(policy, 12, -2, 1); }, {"got -2 and 1"});
  expect_error<std::invalid_argument>([&] { make_window_policy(policy, 12, 2, -1); }, {"got 2 and -1"});
}

}  // namespace
}  // namespace deepcache::cache_policy_test
