#include "deepcache/helper.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <thread>

#include "deepcache/logging.hpp"
#include "expect_error.hpp"
#include "networks.hpp"
#include "tensor_near.hpp"

namespace deepcache::helper_test {
namespace {

std::vector<torch::Tensor> run(const UNet& unet, int steps, int seed = 0) {
  unet.begin_run();
  std::vector<torch::Tensor> outputs;
  for (int i = 0; i < steps; ++i) outputs.push_back(call(unet, seed + i));
  return outputs;
}

std::vector<bool> full_steps(const Helper& helper) {
  std::vector<bool> full;
  for (const auto& step : helper.stats().steps) full.push_back(step.full);
  return full;
}

bool equal(const std::vector<torch::Tensor>& a, const std::vector<torch::Tensor>& b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(), [](const auto& x, const auto& y) { return x.equal(y); });
}

TEST(Helper, DisabledOrIntervalOneIsBitEqualToTheUNet) {
  const auto unet = test_unet();
  const auto expected = run(unet, 4);
  Helper helper(unet);
  helper.set_params({.cache_interval = 3});
  EXPECT_TRUE(equal(run(unet, 4), expected));
  helper.set_params({.cache_interval = 1});
  helper.enable();
  EXPECT_TRUE(equal(run(unet, 4), expected));
  EXPECT_EQ(helper.stats().full_steps, 4);
  EXPECT_EQ(helper.stats().cache_bytes, 0);
  helper.disable();
  EXPECT_TRUE(equal(run(unet, 4), expected));
}

TEST(Helper, CachedStepsDifferButAreFinite) {
  const auto unet = test_unet();
  const auto expected = run(unet, 4);
  Helper helper(unet);
  helper.set_params({.cache_interval = 2});
  helper.enable();
  const auto outputs = run(unet, 4);
  EXPECT_EQ(full_steps(helper), (std::vector<bool>{true, false, true, false}));
  for (std::size_t i = 0; i < 4; ++i) {
    EXPECT_EQ(outputs[i].equal(expected[i]), i % 2 == 0) << i;
    EXPECT_TRUE(outputs[i].isfinite().all().item<bool>());
  }
}

TEST(Helper, CachedStepOnEqualInputIsBitEqual) {
  for (const auto& variant : kVariants) {
    const auto unet = test_unet(variant);
    const auto inputs = unet_inputs(variant);
    const auto expected = first_tensor(unet.forward(inputs));
    Helper helper(unet);
    helper.enable();
    for (std::int64_t branch = 0; branch < unet.num_branches(); ++branch) {
      helper.set_params({.cache_interval = 2, .cache_branch_id = branch});
      helper.reset();
      EXPECT_TRUE(first_tensor(unet.forward(inputs)).equal(expected));
      EXPECT_TRUE(first_tensor(unet.forward(inputs)).equal(expected)) << variant << ", branch " << branch;
      EXPECT_EQ(helper.stats().cached_steps, 1);
    }
  }
}

TEST(Helper, TwoRunsEqualTwoFreshRuns) {
  const auto unet = test_unet();
  Helper helper(unet);
  helper.set_params({.cache_interval = 3});
  helper.enable();
  const auto first = run(unet, 5, 0), second = run(unet, 5, 100);
  const auto fresh = test_unet();
  Helper another(fresh);
  another.set_params({.cache_interval = 3});
  another.enable();
  EXPECT_TRUE(equal(run(fresh, 5, 100), second));
  EXPECT_TRUE(equal(run(fresh, 5, 0), first));
}

TEST(Helper, EnablingAndDisablingTwice) {
  const auto unet = test_unet();
  Helper helper(unet);
  helper.set_params({.cache_interval = 2});
  helper.enable();
  call(unet, 0);
  helper.enable();  // goes on
  call(unet, 1);
  EXPECT_EQ(full_steps(helper), (std::vector<bool>{true, false}));
  helper.disable();
  helper.disable();
  EXPECT_FALSE(helper.enabled());
  EXPECT_EQ(helper.stats().steps.size(), 2U);  // still readable
  EXPECT_EQ(helper.stats().cache_bytes, 0);
  helper.enable();
  EXPECT_TRUE(helper.stats().steps.empty());
  call(unet, 2);
  EXPECT_EQ(full_steps(helper), std::vector<bool>{true});
}

TEST(Helper, ActsOnCopiesOfTheHandleOnly) {
  const auto unet = test_unet();
  const auto copy = unet;
  const auto sharing = unet.share_weights();
  Helper helper(unet);
  helper.enable();
  call(copy, 0);
  call(sharing, 0);
  EXPECT_EQ(helper.stats().steps.size(), 1U);
}

TEST(Helper, OneEnabledHelperAUNet) {
  const auto unet = test_unet();
  Helper first(unet);
  {
    Helper second(unet);
    second.enable();
    expect_error<std::invalid_argument>([&] { first.enable(); }, {"another helper is enabled", "share_weights()"});
  }
  first.enable();  // the other one disabled itself when it went
  Helper moved = std::move(first);
  EXPECT_TRUE(moved.enabled());
  call(unet, 0);
  EXPECT_EQ(moved.stats().steps.size(), 1U);
}

TEST(Helper, ContextsCountAndCacheForThemselves) {
  const auto unet = test_unet();
  Helper helper(unet);
  helper.set_params({.cache_interval = 2});
  helper.enable();
  const auto alternate = [&](const char* context, int seed) {
    helper.set_context(context);
    return call(unet, seed);
  };
  const std::vector<torch::Tensor> conditional{alternate("cond", 0), (alternate("uncond", 50), alternate("cond", 1))};
  const auto unconditional = alternate("uncond", 51);
  EXPECT_EQ(full_steps(helper), (std::vector<bool>{true, true, false, false}));
  EXPECT_EQ(helper.stats().steps[3].context, "uncond");
  helper.set_context("");
  EXPECT_TRUE(equal(run(unet, 2, 0), conditional));
  EXPECT_TRUE(run(unet, 2, 50)[1].equal(unconditional));
}

TEST(Helper, AFeatureServesOnlyWhatItWasComputedFor) {
  const auto unet = test_unet();
  Helper helper(unet);
  helper.set_params({.cache_interval = 10});
  helper.enable();
  call(unet, 0);
  call(unet, 1, 2);      // another batch
  call(unet, 2, 2, 12);  // another size
  call(unet, 3, 2, 12);
  const auto with_timestep = [&](const torch::Tensor& timestep) {
    auto inputs = unet_inputs("sd1", 4, 2, 12, 12);
    inputs[1] = timestep;
    unet.forward(inputs);
  };
  with_timestep(torch::tensor(500.0));  // another dtype
  with_timestep(torch::tensor(499.0));
  EXPECT_EQ(full_steps(helper), (std::vector<bool>{true, true, true, false, true, false}));
  helper.set_params({.cache_interval = 10, .cache_branch_id = 1});
  with_timestep(torch::tensor(498.0));
  EXPECT_EQ(full_steps(helper), std::vector<bool>{true});  // statistics are of these parameters only
  helper.reset();
  with_timestep(torch::tensor(497.0));
  EXPECT_EQ(full_steps(helper), std::vector<bool>{true});
}

TEST(Helper, UsableAfterAnExceptionWithAnEmptyCache) {
  const auto unet = test_unet();
  Helper helper(unet);
  helper.set_params({.cache_interval = 10});
  helper.enable();
  const auto inputs = unet_inputs();
  call(unet, 0);
  for (const auto& wrong : {std::vector<c10::IValue>{inputs[0]},                 // too few
                            {inputs[0], inputs[1], torch::ones({1, 24, 7})}}) {  // fails inside the network
    call(unet, 1);
    EXPECT_GT(helper.stats().cache_bytes, 0);
    EXPECT_THROW(unet.forward(wrong), std::exception);
    EXPECT_EQ(helper.stats().cache_bytes, 0);
  }
  call(unet, 2);
  EXPECT_EQ(full_steps(helper), std::vector<bool>{true});
}

TEST(Helper, TwoThreadsEqualTwoSequentialRuns) {
  std::vector<UNet> unets{test_unet(), test_unet()};
  std::vector<Helper> helpers;
  for (const auto& unet : unets) {
    helpers.emplace_back(unet);
    helpers.back().set_params({.cache_interval = 3, .cache_branch_id = static_cast<std::int64_t>(helpers.size())});
    helpers.back().enable();
  }
  std::vector<std::vector<torch::Tensor>> sequential, parallel(2);
  for (std::size_t i = 0; i < 2; ++i) sequential.push_back(run(unets[i], 12, static_cast<int>(i) * 100));
  std::vector<std::thread> threads;
  for (std::size_t i = 0; i < 2; ++i)
    threads.emplace_back([&, i] { parallel[i] = run(unets[i], 12, static_cast<int>(i) * 100); });
  for (auto& thread : threads) thread.join();
  for (std::size_t i = 0; i < 2; ++i) EXPECT_TRUE(equal(parallel[i], sequential[i])) << i;
}

TEST(Helper, ThreadsMayMeetAtTheFirstUseOfABranch) {
  const auto fresh = UNet(load_module(unet_file("one_layer"), torch::kFloat));
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i)
    threads.emplace_back([unet = fresh.share_weights()] {
      Helper helper(unet);
      helper.set_params({.cache_interval = 2, .cache_branch_id = 3});
      helper.enable();
      for (int step = 0; step < 4; ++step) unet.forward(unet_inputs("one_layer", step));
      EXPECT_EQ(helper.stats().cached_steps, 2);
    });
  for (auto& thread : threads) thread.join();
}

TEST(Helper, Statistics) {
  const auto unet = test_unet();
  Helper helper(unet);
  helper.set_params({.cache_interval = 3, .cache_branch_id = 2});
  helper.enable();
  EXPECT_EQ(helper.stats().macs_saved, 0);
  run(unet, 7);
  const auto stats = helper.stats();
  EXPECT_EQ(stats.full_steps, 3);
  EXPECT_EQ(stats.cached_steps, 4);
  const auto place = unet.profile(unet_inputs())[2];
  EXPECT_EQ(stats.cache_bytes, 3 * place.feature_bytes);  // two that are forecast from, and the forecast
  EXPECT_EQ(stats.full_step, place.full_step);
  EXPECT_EQ(stats.cached_step, place.cached_step);
  EXPECT_EQ(stats.macs_saved, 4 * (place.full_step.total() - place.cached_step.total()));
  for (std::size_t i = 0; i < stats.steps.size(); ++i) {
    EXPECT_EQ(stats.steps[i].step_index, static_cast<std::int64_t>(i));
    EXPECT_GT(stats.steps[i].milliseconds, 0);
  }
}

struct FirstTwo : CachePolicy {
  bool is_full_step(std::int64_t step_index) const override { return step_index < 2; }
  std::string describe() const override { return "the first two"; }
};

TEST(Helper, OwnPolicy) {
  const auto unet = test_unet();
  Helper helper(unet);
  helper.set_params({.policy = std::make_shared<FirstTwo>()});
  helper.enable();
  run(unet, 4);
  EXPECT_EQ(full_steps(helper), (std::vector<bool>{true, true, false, false}));
}

TEST(HelperParams, ModulesByNameOrItsEnd) {
  const auto unet = test_unet();
  Helper helper(unet);
  helper.enable();
  for (const auto& [name, branch] :
       {std::pair{"up_blocks.3.resnets.2", 0}, {"up_blocks.2.resnets.0", 5}, {"3.resnets.1", 1}}) {
    helper.set_params({.cache_interval = 2, .cache_module = name});
    run(unet, 2);
    EXPECT_EQ(helper.stats().cached_step, unet.profile(unet_inputs())[static_cast<std::size_t>(branch)].cached_step)
        << name;
  }
  helper.set_params({.cache_branch_id = 5, .cache_module = "up_blocks.2.resnets.0"});  // both, and they agree
  const auto refuse = [&](const CacheParams& params, const std::vector<std::string>& parts) {
    expect_error<std::invalid_argument>([&] { helper.set_params(params); }, parts);
  };
  refuse({.cache_module = "resnets.1"}, {"\"resnets.1\" names 4 of them", "up_blocks.3.resnets.2"});
  refuse({.cache_module = "mid_block"}, {"\"mid_block\" names 0 of them"});
  refuse({.cache_module = "esnets.1"}, {"names 0 of them"});
  refuse({.cache_branch_id = 4, .cache_module = "up_blocks.2.resnets.0"}, {"is branch 5, but cache_branch_id says 4"});
  refuse({.cache_branch_id = -1, .cache_module = "3.resnets.2"}, {"is branch 0, but cache_branch_id says -1"});
}

TEST(HelperParams, OutOfRangeChangesNothing) {
  const auto unet = test_unet();
  Helper helper(unet);
  helper.set_params({.cache_interval = 4, .cache_branch_id = 7});
  const auto refuse = [&](const CacheParams& params, const std::vector<std::string>& parts) {
    expect_error<std::invalid_argument>([&] { helper.set_params(params); }, parts);
  };
  refuse({.cache_interval = 0}, {"cache_interval must be 1 or above, got 0"});
  const std::string allowed = "cache_branch_id must be 0 to 11 for this UNet, or -1 for its whole output, got ";
  refuse({.cache_interval = 2, .cache_branch_id = 12}, {allowed + "12"});
  refuse({.cache_interval = 2, .cache_branch_id = -2}, {allowed + "-2"});
  refuse({.forecast_order = 3}, {"forecast_order must be 0 to 2, got 3"});
  refuse({.forecast_order = -1}, {"forecast_order must be 0 to 2, got -1"});
  refuse({.skip_mode = SkipMode::kList}, {"must begin with 0, got []"});
  refuse({.skip_mode = SkipMode::kTimesteps}, {"timestep_distance must be above 0, got 0"});
  refuse({.skip_mode = SkipMode::kAdaptive, .tolerance = 0}, {"tolerance must be above 0 and below 1, got 0"});
  refuse({.skip_mode = SkipMode::kAdaptive, .tolerance = 1}, {"tolerance must be above 0 and below 1, got 1"});
  refuse({.skip_mode = SkipMode::kAdaptive, .max_interval = 0}, {"max_interval must be 1 or above, got 0"});
  refuse({.full_first = -1}, {"full_first must be 0 or above, got -1"});
  refuse({.full_last = -2}, {"full_last must be 0 or above, got -2"});
  EXPECT_EQ(helper.params().cache_interval, 4);
  EXPECT_EQ(helper.params().cache_branch_id, 7);
}

TEST(Helper, PartsOfARunBeginAnewInOneStatistic) {
  const auto unet = test_unet();
  Helper helper(unet);
  helper.set_params({.cache_interval = 2});
  helper.enable();
  run(unet, 2);
  unet.begin_run({}, {.continues = true});
  call(unet, 2);
  EXPECT_EQ(helper.stats().cached_steps, 1);
  EXPECT_EQ(full_steps(helper), (std::vector<bool>{true, false, true}));
  EXPECT_EQ(helper.stats().steps.back().step_index, 0);
  run(unet, 1);
  EXPECT_EQ(full_steps(helper), (std::vector<bool>{true}));
}

TEST(Helper, SaysWhereCachingChangesPicturesMore) {
  const auto unet = test_unet();
  const auto nine = torch::zeros(9), ten = torch::zeros(10);
  const auto warnings = [&](const CacheParams& params, const std::function<void()>& begin) {
    Helper helper(unet);
    helper.set_params(params);
    helper.enable();
    testing::internal::CaptureStderr();
    begin();
    begin();
    return testing::internal::GetCapturedStderr();
  };
  testing::internal::CaptureStderr();
  enable_logging();
  testing::internal::GetCapturedStderr();
  const auto few = warnings({.cache_interval = 2}, [&] { unet.begin_run(nine); });
  EXPECT_NE(few.find("a run of 9 calls of the UNet each is far"), std::string::npos) << few;
  EXPECT_EQ(std::ranges::count(few, '\n'), 1);  // of both
  const auto noisy = warnings({.cache_interval = 2}, [&] { unet.begin_run(ten, {.adds_noise = true}); });
  EXPECT_NE(noisy.find("the scheduler adds noise"), std::string::npos) << noisy;
  EXPECT_EQ(warnings({.cache_interval = 2}, [&] { unet.begin_run(ten); }), "");
  EXPECT_EQ(warnings({.cache_interval = 2}, [&] { unet.begin_run(); }), "");
  EXPECT_EQ(warnings({.cache_interval = 2}, [&] { unet.begin_run(nine, {.schedule_size = 50}); }), "");
  EXPECT_EQ(warnings({}, [&] { unet.begin_run(nine, {.adds_noise = true}); }), "");

  Helper helper(unet);
  helper.set_params({.cache_interval = 2, .strict = true});
  helper.enable();
  expect_error<std::invalid_argument>([&] { unet.begin_run(nine); },
                                      {"of 9 calls", "caching changes such pictures more"});
  expect_error<std::invalid_argument>([&] { unet.begin_run(ten, {.adds_noise = true}); }, {"adds noise in its steps"});
  unet.begin_run(ten);
  expect_error<std::invalid_argument>([&] { unet.begin_run(torch::zeros({2, 5})); }, {"must be [N], got 2 dimensions"});
  call(unet, 0);
}

TEST(HelperTimesteps, CountsAsPythonDoes) {
  const auto unet = test_unet();
  Helper helper(unet);
  helper.set_params({.cache_interval = 2, .step_counting = StepCounting::kTimesteps});
  helper.enable();
  unet.begin_run(torch::tensor({900, 500, 499, 499, 498, 497}));
  std::vector<std::int64_t> indices;
  for (const int seed : {0, 1, 1, 2, 3}) call(unet, seed);  // timesteps 500, 499, 499, 498, 497: from the second on
  for (const auto& step : helper.stats().steps) indices.push_back(step.step_index);
  EXPECT_EQ(indices, (std::vector<std::int64_t>{0, 1, 1, 3, 4}));
  EXPECT_EQ(full_steps(helper), (std::vector<bool>{true, false, false, false, true}));
  // The repeated timestep doesn't lose the feature that the one after it needs.
  helper.set_params({.forecast_order = 0,
                     .skip_mode = SkipMode::kList,
                     .full_steps = {0, 1, 2},
                     .step_counting = StepCounting::kTimesteps});
  for (const int seed : {0, 1, 1, 2}) call(unet, seed);
  EXPECT_EQ(full_steps(helper), (std::vector<bool>{true, true, true, false}));
  expect_error<std::invalid_argument>([&] { call(unet, 50); }, {"timestep 450 isn't in the schedule"});
  expect_error<std::invalid_argument>([&] { call(unet, 0); }, {"needs the schedule", "begin_run"});

  Helper without_timestep(make_module("def forward(self, x):\n    return torch.cat([x, x], 1)\n"));
  without_timestep.set_params({.cache_interval = 2, .step_counting = StepCounting::kTimesteps});
  without_timestep.enable();
  without_timestep.unet().begin_run(torch::ones(1));
  expect_error<std::invalid_argument>(
      [&] {
        without_timestep.forward({torch::ones({1, 1})});
      },
      {"the timestep as the UNet's second input"});
}

TEST(HelperSources, FromFileOrModuleAndAnyInputs) {
  Helper from_file(unet_file("sd1"), torch::kCPU, torch::kFloat);  // stored in float16
  from_file.enable();
  EXPECT_TRUE(first_tensor(from_file.forward(unet_inputs())).equal(call(test_unet(), 0)));
  EXPECT_EQ(from_file.stats().full_steps, 1);

  Helper helper(make_module(R"(
    def forward(self, x, residuals: List[Tensor], conditions: Dict[str, Tensor], scale: float):
        h = torch.conv2d(x, self.weight) * conditions["strength"]
        h = torch.cat([h, x + residuals[0] * scale], 1)
        return h, h.mean()
  )"));
  helper.set_params({.cache_interval = 2});
  helper.enable();
  const auto x = torch::rand({1, 4, 3, 3});
  c10::Dict<std::string, torch::Tensor> conditions;
  conditions.insert("strength", torch::full({}, 2.0));
  const auto forward = [&](double residual) {
    return helper.forward({x, std::vector<torch::Tensor>{torch::full({}, residual)}, conditions, 3.0});
  };
  const auto full = forward(0), cached = forward(1);
  ASSERT_TRUE(cached.isTuple());
  EXPECT_EQ(cached.toTupleRef().elements().size(), 2U);
  // What enters after the cut is fresh on a cached step.
  EXPECT_TRUE(first_tensor(cached).slice(1, 4).equal(x + 3));
  EXPECT_TRUE(first_tensor(cached).slice(1, 0, 4).equal(first_tensor(full).slice(1, 0, 4)));
  EXPECT_EQ(helper.stats().cached_steps, 1);
}

/// Of quad, with pow 1.4 and interval 3 in a run of ten: 0, 1, 3, 6.
TEST(Helper, NonUniformModesNeedTheSchedule) {
  const auto unet = test_unet();
  const auto schedule = torch::arange(9, -1, -1);
  Helper helper(unet);
  helper.set_params({.cache_interval = 3, .skip_mode = SkipMode::kQuad, .pow = 1.4});
  helper.enable();
  expect_error<std::invalid_argument>([&] { call(unet, 0); }, {"number of steps", "unet.begin_run(timesteps)"});
  expect_error<std::invalid_argument>([&] { run(unet, 2); }, {"unet.begin_run(timesteps)"});  // begins without one
  EXPECT_EQ(helper.stats().policy, "");

  const auto policy = make_quad_policy(10, 3, 1.4);
  std::vector<bool> expected;
  for (int i = 0; i < 10; ++i) expected.push_back(policy->is_full_step(i));
  for (int repeat = 0; repeat < 2; ++repeat) {
    unet.begin_run(schedule);
    for (int i = 0; i < 10; ++i) call(unet, i);
    EXPECT_EQ(full_steps(helper), expected);
    EXPECT_EQ(helper.stats().policy, policy->describe());
  }
  helper.reset();
  expect_error<std::invalid_argument>([&] { call(unet, 0); }, {"not by reset()"});
  unet.begin_run(schedule);
  helper.set_params({.cache_interval = 3, .skip_mode = SkipMode::kCenter, .pow = 1.4, .center = 5});  // keeps it
  call(unet, 0);
  EXPECT_EQ(helper.stats().policy, make_center_policy(10, 3, 5, 1.4)->describe());
  helper.set_params(
      {.cache_interval = 3, .skip_mode = SkipMode::kCenter, .pow = 1.4, .center = 25});  // for a longer one
  unet.begin_run(torch::arange(49, -1, -1));
  EXPECT_EQ(helper.stats().policy, make_center_policy(50, 3, 25, 1.4)->describe());
}

TEST(Helper, ListsTimestepsAndWindows) {
  const auto unet = test_unet();
  const auto schedule = torch::tensor({900, 890, 870, 800, 700, 690, 500, 200, 150, 100});
  Helper helper(unet);
  helper.enable();
  const auto expect = [&](const CacheParams& params, const std::vector<int>& expected) {
    helper.set_params(params);
    unet.begin_run(schedule);
    for (int i = 0; i < 10; ++i) call(unet, i);
    std::vector<int> steps;
    for (const auto& step : helper.stats().steps)
      if (step.full) steps.push_back(static_cast<int>(step.step_index));
    EXPECT_EQ(steps, expected);
  };
  expect({.cache_interval = 3, .skip_mode = SkipMode::kEven}, {0, 3, 5, 8});
  expect({.skip_mode = SkipMode::kList, .full_steps = {0, 1, 5}}, {0, 1, 5});
  expect({.skip_mode = SkipMode::kTimesteps, .timestep_distance = 100}, {0, 3, 4, 6, 7, 9});
  expect({.cache_interval = 4, .full_first = 2, .full_last = 3}, {0, 1, 4, 7, 8, 9});
  EXPECT_EQ(helper.stats().policy, "uniform, every 4 steps; the first 2 and last 3 of 10 full");
  helper.reset();
  expect_error<std::invalid_argument>([&] { call(unet, 0); },
                                      {"full_first and full_last need the run's number of steps"});

  helper.set_params({.skip_mode = SkipMode::kList, .full_steps = {0, 10}});
  expect_error<std::invalid_argument>([&] { unet.begin_run(schedule); },
                                      {"full_steps must be below the run's 10 calls of the UNet, got 10"});
  unet.begin_run(schedule, {.schedule_size = 11});  // a part of a longer one
  helper.set_params({.num_steps = 50});             // of a list alone
  unet.begin_run(schedule);
}

TEST(Helper, ARunThatIsRefusedChangesNothing) {
  const auto unet = test_unet();
  Helper helper(unet);
  helper.set_params({.cache_interval = 3, .strict = true});
  helper.enable();
  unet.begin_run(torch::arange(10, 0, -1));
  call(unet, 0);
  call(unet, 1);
  expect_error<std::invalid_argument>(
      [&] { unet.begin_run(torch::arange(10, 0, -1), {.adds_noise = true, .guided = true}); }, {"adds noise"});
  EXPECT_EQ(helper.stats().steps.size(), 2U);
  call(unet, 2);  // a batch of one, which guided runs haven't
  call(unet, 3);
  EXPECT_EQ(helper.stats().full_steps, 2);
  EXPECT_EQ(helper.stats().cached_steps, 2);
}

/// At samples 1, 1.01, 1.02, ...: each is a hundredth farther from the first, over itself.
TEST(HelperAdaptive, FullWhereTheSampleMovedTooFarOrLongAgo) {
  Helper helper(parabola());
  helper.enable();
  const auto expect = [&](const CacheParams& params, const std::vector<std::int64_t>& expected) {
    helper.set_params(params);
    for (int i = 0; i < 16; ++i)
      helper.forward({torch::full({2, 4, 3, 3}, 1 + 0.01 * i), torch::full({}, static_cast<double>(i))});
    std::vector<std::int64_t> full;
    for (const auto& step : helper.stats().steps) {
      if (step.full) full.push_back(step.step_index);
      EXPECT_EQ(std::isnan(step.forecast_error), !step.full || step.step_index == 0);
    }
    EXPECT_EQ(full, expected);
  };
  expect({.skip_mode = SkipMode::kAdaptive, .tolerance = 0.035, .max_interval = 16}, {0, 4, 8, 12});
  expect({.skip_mode = SkipMode::kAdaptive, .tolerance = 0.9, .max_interval = 5}, {0, 3, 8, 13});
  EXPECT_EQ(helper.stats().policy, "adaptive, tolerance 0.9, every 5 steps or oftener");
}

TEST(HelperAdaptive, NeedsASample) {
  Helper helper(make_module("def forward(self, n: float, x):\n    return torch.cat([x * n, x], 1)\n"));
  helper.set_params({.skip_mode = SkipMode::kAdaptive});
  helper.enable();
  expect_error<std::invalid_argument>([&] { helper.forward({2.0, torch::ones({1, 1})}); }, {"needs the sample"});
}

TEST(Helper, NonUniformModesOutOfRange) {
  Helper helper(test_unet());
  const auto expect = [&](const CacheParams& params, const std::string& message) {
    expect_error<std::invalid_argument>([&] { helper.set_params(params); }, {message});
  };
  expect({.cache_interval = 0, .skip_mode = SkipMode::kQuad}, "cache_interval must be 1 or above, got 0");
  expect({.cache_interval = 3, .skip_mode = SkipMode::kQuad, .pow = 1}, "pow must be above 1, to 10, got 1");
  expect({.cache_interval = 3, .skip_mode = SkipMode::kCenter, .center = -1}, "center must be 0 or above, got -1");
  expect({.cache_interval = 0, .skip_mode = SkipMode::kEven}, "cache_interval must be 1 or above, got 0");
  helper.set_params({.cache_interval = 2, .skip_mode = SkipMode::kCenter, .pow = 1.4, .center = 25});
  helper.enable();
  const auto schedule = torch::zeros(50);
  expect_error<std::invalid_argument>([&] { helper.unet().begin_run(schedule); }, {"different full steps"});
}

}  // namespace
}  // namespace deepcache::helper_test
