#include "deepcache/cache_policy.hpp"

#include <gtest/gtest.h>

#include <vector>

#include "expect_error.hpp"

namespace deepcache {
namespace {

struct UniformCase {
  std::int64_t interval;
  std::int64_t steps;
  std::vector<std::int64_t> full_steps;
  const char* description;
};

class UniformPolicyTest : public testing::TestWithParam<UniformCase> {};

TEST_P(UniformPolicyTest, FullSteps) {
  const auto& param = GetParam();
  const auto policy = make_uniform_policy(param.interval);
  std::vector<std::int64_t> full_steps;
  for (std::int64_t i = 0; i < param.steps; ++i)
    if (policy->is_full_step(i)) full_steps.push_back(i);
  EXPECT_EQ(full_steps, param.full_steps);
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

}  // namespace
}  // namespace deepcache
