#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include "deepcache/noise.hpp"
#include "deepcache/scheduler.hpp"
#include "expect_error.hpp"
#include "tensor_near.hpp"

// The schedulers that step from sigma to sigma: Euler, Euler ancestral, Heun.
namespace deepcache::sigma_scheduler_test {
namespace {

constexpr const char* kNames[] = {"euler", "euler_a", "heun"};

/// Stable Diffusion's noise schedule, and `settings` before it.
std::unique_ptr<Scheduler> make(const std::string& name, const std::string& settings = "") {
  return Scheduler::from_json(
      "{" + settings + R"("beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"})", name);
}

torch::Tensor make_sample() {
  return NoiseGenerator({0}).randn({2, 3, 4, 4}, torch::kFloat32);
}

std::vector<float> values(const torch::Tensor& tensor) {
  EXPECT_EQ(tensor.scalar_type(), torch::kFloat32);
  return {tensor.data_ptr<float>(), tensor.data_ptr<float>() + tensor.numel()};
}

TEST(SigmaScheduler, Timesteps) {
  struct {
    const char* name;
    const char* settings;
    std::int64_t steps;
    std::vector<float> expected;
  } const cases[] = {
      {"euler", "", 1, {0}},
      {"euler", "", 3, {999, 499.5, 0}},
      {"euler", R"("timestep_spacing": "leading", "steps_offset": 1, )", 4, {751, 501, 251, 1}},
      {"euler", R"("timestep_spacing": "trailing", )", 4, {999, 749, 499, 249}},
      {"euler", R"("use_karras_sigmas": true, "sigma_min": 1e-3, "sigma_max": 100, )", 2, {999, 0}},
      {"euler_a", "", 3, {999, 499.5, 0}},
      {"heun", "", 1, {0}},
      {"heun", "", 3, {999, 499.5, 499.5, 0, 0}},
      {"heun", R"("timestep_spacing": "trailing", )", 2, {999, 499, 499}},
  };
  for (const auto& test : cases) {
    SCOPED_TRACE(std::string(test.name) + " " + test.settings + std::to_string(test.steps));
    const auto scheduler = make(test.name, test.settings);
    EXPECT_EQ(values(scheduler->timesteps()), std::vector<float>{});
    scheduler->set_timesteps(test.steps);
    EXPECT_EQ(values(scheduler->timesteps()), test.expected);
  }
}

TEST(SigmaScheduler, OrderIsTheCallsOfAStep) {
  EXPECT_EQ(make("euler")->order(), 1);
  EXPECT_EQ(make("euler_a")->order(), 1);
  EXPECT_EQ(make("heun")->order(), 2);
  EXPECT_EQ(make("plms")->order(), 1);
}

TEST(SigmaScheduler, ScalesNoiseAndModelInputs) {
  constexpr double kMaxSigma = 14.614647;
  constexpr double kSigmaAt501 = 1.623693, kTolerance = 1e-4;
  const auto sample = make_sample();
  for (const auto* name : kNames) {
    SCOPED_TRACE(name);
    auto scheduler = make(name);
    scheduler->set_timesteps(10);
    EXPECT_NEAR(scheduler->init_noise_sigma(), kMaxSigma, kTolerance);
    expect_tensor_near(scheduler->scale_model_input(sample, 0), sample / std::sqrt(kMaxSigma * kMaxSigma + 1),
                       kTolerance);
    EXPECT_THROW(scheduler->scale_model_input(sample, -1), std::invalid_argument);
    EXPECT_THROW(scheduler->scale_model_input(sample, scheduler->timesteps().size(0)), std::invalid_argument);

    scheduler = make(name, R"("timestep_spacing": "leading", "steps_offset": 1, )");
    scheduler->set_timesteps(2);
    EXPECT_NEAR(scheduler->init_noise_sigma(), std::sqrt(kSigmaAt501 * kSigmaAt501 + 1), kTolerance);
    expect_tensor_near(scheduler->add_noise(sample, torch::ones_like(sample), scheduler->timesteps().slice(0, 0, 1)),
                       sample + kSigmaAt501, kTolerance);
  }
}

TEST(SigmaScheduler, NoisesToTimestepsOfTheRunOnly) {
  const auto sample = make_sample();
  for (const auto* name : kNames) {
    SCOPED_TRACE(name);
    const auto scheduler = make(name);
    const auto refuse = [&](const torch::Tensor& timesteps, const std::vector<std::string>& parts) {
      expect_error<std::invalid_argument>([&] { scheduler->add_noise(sample, sample, timesteps); }, parts);
    };
    refuse(torch::tensor({999.0F}), {"999", "run's 0", scheduler->name()});
    scheduler->set_timesteps(3);
    EXPECT_NO_THROW(scheduler->add_noise(sample, sample, torch::tensor({999.0F, 499.5F})));
    refuse(torch::tensor({999.0F, 499.0F}), {"499", "isn't among the run's"});
    refuse(torch::tensor({999}, torch::kInt64), {"float32 [2] or [1]"});
    refuse(torch::tensor({999.0F, 999.0F, 999.0F}), {"float32 [2] or [1]"});
    refuse(torch::Tensor(), {"tensor"});
    expect_error<std::invalid_argument>(
        [&] { scheduler->add_noise(sample, sample[0], scheduler->timesteps().slice(0, 0, 1)); }, {"[3, 4, 4]"});
  }
}

TEST(SigmaScheduler, RefusesUnsupportedValues) {
  struct {
    const char* name;
    const char* setting;
    std::vector<std::string> message;
  } const cases[] = {
      {"euler", R"("use_beta_sigmas": 1)", {"use_beta_sigmas", "is 1;"}},
      {"euler", R"("use_karras_sigmas": true, "use_beta_sigmas": true)", {"use_karras_sigmas", "use_beta_sigmas"}},
      {"euler", R"("use_karras_sigmas": true, "use_exponential_sigmas": true)", {"use_karras_sigmas", "only one"}},
      {"euler", R"("use_karras_sigmas": null)", {"use_karras_sigmas", "null"}},
      {"euler", R"("use_exponential_sigmas": 1)", {"use_exponential_sigmas", "is 1;"}},
      {"euler", R"("interpolation_type": "cubic")", {"interpolation_type", R"("linear", "log_linear")"}},
      {"euler", R"("timestep_type": "float")", {"timestep_type", R"("discrete", "continuous")"}},
      {"euler", R"("final_sigmas_type": "one")", {"final_sigmas_type", R"("zero", "sigma_min")"}},
      {"euler", R"("prediction_type": "flow")", {"prediction_type", R"("sample", "original_sample")"}},
      {"euler", R"("sigma_min": 0)", {"sigma_min", "is 0;", "null or a number of at least"}},
      {"euler", R"("sigma_max": "700")", {"sigma_max", "\"700\""}},
      {"euler", R"("timestep_spacing": "log")", {"timestep_spacing"}},
      {"euler", R"("steps_offset": -1)", {"steps_offset", "-1"}},
      {"euler", R"("rescale_betas_zero_snr": 0)", {"rescale_betas_zero_snr"}},
      {"euler", R"("beta_schedule": "exp")", {"beta_schedule", "\"exp\""}},
      {"euler_a", R"("prediction_type": "sample")", {"prediction_type", R"("epsilon", "v_prediction")"}},
      {"euler_a", R"("timestep_spacing": "log")", {"timestep_spacing"}},
      {"euler_a", R"("steps_offset": 0.5)", {"steps_offset", "0.5"}},
      {"euler_a", R"("rescale_betas_zero_snr": 0)", {"rescale_betas_zero_snr"}},
      {"euler_a", R"("beta_schedule": "exp")", {"beta_schedule", "\"exp\""}},
      {"heun", R"("use_exponential_sigmas": true, "use_beta_sigmas": true)", {"use_beta_sigmas", "only one"}},
      {"heun", R"("use_karras_sigmas": true, "use_exponential_sigmas": true)", {"use_exponential_sigmas", "only one"}},
      {"heun", R"("prediction_type": "original_sample")", {"prediction_type", "\"original_sample\""}},
      {"heun", R"("sigma_max": 0)", {"sigma_max", "is 0;"}},
      {"heun", R"("clip_sample": null)", {"clip_sample", "null"}},
      {"heun", R"("clip_sample_range": -1)", {"clip_sample_range", "-1"}},
      {"heun", R"("timestep_spacing": "log")", {"timestep_spacing"}},
      {"heun", R"("steps_offset": -1)", {"steps_offset", "-1"}},
      {"heun", R"("beta_schedule": "sigmoid")", {"beta_schedule", R"("squaredcos_cap_v2", "exp")"}},
  };
  for (const auto& test : cases) {
    SCOPED_TRACE(std::string(test.name) + " " + test.setting);
    const auto json = std::string("{") + test.setting + "}";
    expect_error<std::runtime_error>([&] { Scheduler::from_json(json, test.name); }, test.message);
  }
}

TEST(SigmaScheduler, RefusesRunsThatNeedOtherSigmas) {
  struct {
    const char* settings;
    std::int64_t steps;
    std::vector<std::string> message;
  } const cases[] = {
      {R"("beta_start": 0.0)", 7, {"sigma of 0", "above 0"}},
      {R"("beta_end": 1.0)", 7, {"sigma of inf", "finite"}},
      {R"("beta_end": 1.0, "use_karras_sigmas": true)", 7, {"inf to"}},
      {R"("beta_start": 0.0, "use_exponential_sigmas": true)", 7, {"to 0:"}},
      {R"("beta_start": 0.0, "use_beta_sigmas": true)", 7, {"to 0:"}},
      {R"("use_beta_sigmas": true, "sigma_min": 3.0, "sigma_max": 2.0)", 7, {"from 2 to 3"}},
      {R"("use_karras_sigmas": true, "sigma_min": 3.0, "sigma_max": 2.0)", 7, {"from 2 to 3"}},
      {R"("timestep_spacing": "leading", "steps_offset": 1)", 1000, {"steps_offset of 1", "999"}},
  };
  for (const auto& test : cases) {
    SCOPED_TRACE(test.settings);
    const auto scheduler = Scheduler::from_json(std::string("{") + test.settings + "}", "euler");
    expect_error<std::invalid_argument>([&] { scheduler->set_timesteps(test.steps); }, test.message);
    EXPECT_EQ(scheduler->timesteps().size(0), 0);
  }
}

TEST(SigmaScheduler, HasASingleTrainingTimestep) {
  for (const auto* name : {"euler", "heun"}) {
    for (const auto* setting : {"use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas"}) {
      const auto scheduler =
          Scheduler::from_json(std::string(R"({"num_train_timesteps": 1, ")") + setting + "\": true}", name);
      scheduler->set_timesteps(1);
      EXPECT_EQ(values(scheduler->timesteps()), std::vector<float>{0});
    }
  }
}

TEST(SigmaScheduler, OnlyEulerChurns) {
  constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
  const auto sample = make_sample();
  NoiseGenerator noise({0});
  for (const auto* name : {"euler_a", "heun", "ddim", "plms"}) {
    const auto scheduler = make(name);
    scheduler->set_timesteps(4);
    for (const StepOptions& options : {StepOptions{.noise = &noise, .s_churn = 1.0},
                                       {.noise = &noise, .s_tmin = 1.0},
                                       {.noise = &noise, .s_tmax = 1.0},
                                       {.noise = &noise, .s_noise = 2.0}})
      expect_error<std::invalid_argument>([&] { scheduler->step(sample, 0, sample, options); },
                                          {scheduler->name(), "s_churn"});
  }
  const auto euler = make("euler");
  euler->set_timesteps(4);
  for (const double bad : {-1.0, kNan})
    for (const StepOptions& options : {StepOptions{.s_churn = bad}, {.s_tmin = bad}, {.s_tmax = bad}, {.s_noise = bad}})
      expect_error<std::invalid_argument>([&] { euler->step(sample, 0, sample, options); }, {"at least 0"});
  expect_error<std::invalid_argument>([&] { euler->step(sample, 0, sample, {.s_churn = 1.0}); },
                                      {"StepOptions::noise"});
  expect_error<std::invalid_argument>([&] { euler->step(sample, 0, sample, {.eta = 0.5}); }, {"eta"});

  // Sigma is 14.6: nothing is drawn.
  const auto expected = euler->step(sample, 0, sample);
  expect_tensor_near(euler->step(sample, 0, sample, {.s_churn = 1.0, .s_tmax = 14.0}), expected, 0.0);
  expect_tensor_near(euler->step(sample, 0, sample, {.s_churn = 1.0, .s_tmin = 15.0}), expected, 0.0);
  EXPECT_FALSE(euler->step(sample, 0, sample, {.noise = &noise, .s_churn = 1.0}).equal(expected));
}

TEST(SigmaScheduler, HeunBeginsWithAWholeStep) {
  const auto sample = make_sample();
  const auto scheduler = make("heun");
  scheduler->set_timesteps(4);
  for (const std::int64_t index : {1, 3, 5})
    expect_error<std::invalid_argument>([&] { scheduler->step(sample, index, sample); },
                                        {"step " + std::to_string(index), "second half"});
  // Once a run is under way, a refused index leaves its history.
  const auto fresh = make("heun");
  fresh->set_timesteps(4);
  const auto first = fresh->step(sample, 2, sample);
  const auto second = fresh->step(sample / 2, 3, first);
  expect_tensor_near(scheduler->step(sample, 2, sample), first, 0.0);
  EXPECT_THROW(scheduler->step(sample / 2, 5, first), std::invalid_argument);
  EXPECT_THROW(scheduler->step(sample[0], 3, first), std::invalid_argument);
  EXPECT_THROW(scheduler->set_timesteps(0), std::invalid_argument);
  expect_tensor_near(scheduler->step(sample / 2, 3, first), second, 0.0);
  // The second half of another run can't follow.
  scheduler->step(sample, 4, second);
  scheduler->set_timesteps(4);
  EXPECT_THROW(scheduler->step(sample, 5, sample), std::invalid_argument);
}

/// diffusers takes roots of numbers below 0 here, and all is NaN.
TEST(SigmaScheduler, AncestralStepsAreFinite) {
  struct {
    const char* config;
    std::int64_t steps;
  } const cases[] = {
      {R"({"rescale_betas_zero_snr": true})", 999},      // the second sigma is above the first
      {R"({"beta_schedule": "squaredcos_cap_v2"})", 4},  // from 20291 to 1.7
      {R"({"beta_schedule": "squaredcos_cap_v2", "timestep_spacing": "trailing"})", 3},
  };
  NoiseGenerator noise({0});
  for (const auto& test : cases) {
    SCOPED_TRACE(test.config);
    const auto scheduler = Scheduler::from_json(test.config, "euler_a");
    scheduler->set_timesteps(test.steps);
    auto sample = make_sample() * scheduler->init_noise_sigma();
    for (std::int64_t i = 0; i < test.steps; ++i) {
      const auto output = scheduler->scale_model_input(sample, i) / 2;
      sample = scheduler->step(output, i, sample, {.noise = &noise});
    }
    EXPECT_TRUE(sample.isfinite().all().item<bool>());
  }
}

}  // namespace
}  // namespace deepcache::sigma_scheduler_test
