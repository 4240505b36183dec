#include "deepcache/scheduler.hpp"

#include <gtest/gtest.h>

#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include "deepcache/noise.hpp"
#include "expect_error.hpp"
#include "tensor_near.hpp"

namespace deepcache::scheduler_test {
namespace {

constexpr const char* kPlms = R"({"_class_name": "PNDMScheduler", "skip_prk_steps": true, "steps_offset": 1})";
constexpr const char* kPrk = R"({"_class_name": "PNDMScheduler"})";
constexpr const char* kDdim = R"({"_class_name": "DDIMScheduler"})";
constexpr const char* kCompVisDdim = R"({"_class_name": "CompVisDDIMScheduler"})";
constexpr const char* kDdpm = R"({"_class_name": "DDPMScheduler"})";
constexpr const char* kLcm = R"({"_class_name": "LCMScheduler"})";
constexpr const char* kEuler = R"({"_class_name": "EulerDiscreteScheduler"})";
constexpr const char* kEulerA = R"({"_class_name": "EulerAncestralDiscreteScheduler"})";
constexpr const char* kHeun = R"({"_class_name": "HeunDiscreteScheduler"})";
constexpr const char* kDpm = R"({"_class_name": "DPMSolverMultistepScheduler", "solver_order": 3})";
constexpr const char* kDpmSde =
    R"({"_class_name": "DPMSolverMultistepScheduler", "algorithm_type": "sde-dpmsolver++"})";
constexpr const char* kUniPc = R"({"_class_name": "UniPCMultistepScheduler", "solver_order": 3})";

/// What holds for every class is tested with each of these.
constexpr const char* kConfigs[] = {
    kDdim, kCompVisDdim, kPlms, kPrk, kDdpm, kLcm, kEuler, kEulerA, kHeun, kDpm, kDpmSde, kUniPc,
};

/// Those that draw noise at all their steps, or all but the last.
constexpr const char* kStochastic[] = {kDdpm, kLcm, kEulerA, kDpmSde};

torch::Tensor make_sample(std::uint64_t seed = 0) {
  return NoiseGenerator({seed}).randn({2, 3, 4, 4}, torch::kFloat32);
}

std::vector<std::int64_t> timesteps_of(const char* config, std::int64_t steps) {
  const auto scheduler = Scheduler::from_json(config);
  scheduler->set_timesteps(steps);
  const auto timesteps = scheduler->timesteps();
  return {timesteps.data_ptr<std::int64_t>(), timesteps.data_ptr<std::int64_t>() + timesteps.numel()};
}

/// The samples after each step from `first` on, of a model that halves its input. Each run has the same noise.
std::vector<torch::Tensor> run(Scheduler& scheduler, std::int64_t first = 0, StepOptions options = {}) {
  NoiseGenerator noise({1});
  options.noise = &noise;
  std::vector<torch::Tensor> samples{make_sample()};
  for (auto i = first; i < scheduler.timesteps().size(0); ++i)
    samples.push_back(scheduler.step(samples.back() / 2, i, samples.back(), options));
  return samples;
}

/// The same of a new scheduler, over six steps.
std::vector<torch::Tensor> run_afresh(const char* config) {
  const auto scheduler = Scheduler::from_json(config);
  scheduler->set_timesteps(6);
  return run(*scheduler);
}

void expect_same(const std::vector<torch::Tensor>& actual, const std::vector<torch::Tensor>& expected) {
  ASSERT_EQ(actual.size(), expected.size());
  for (std::size_t i = 0; i < actual.size(); ++i) expect_tensor_near(actual[i], expected[i], 0.0);
}

TEST(SchedulerTimesteps, Calls) {
  EXPECT_EQ(timesteps_of(kDdim, 4), (std::vector<std::int64_t>{750, 500, 250, 0}));
  EXPECT_EQ(timesteps_of(kPlms, 1), (std::vector<std::int64_t>{1}));
  EXPECT_EQ(timesteps_of(kPlms, 2), (std::vector<std::int64_t>{501, 1, 1}));
  EXPECT_EQ(timesteps_of(kPlms, 4), (std::vector<std::int64_t>{751, 501, 501, 251, 1}));
  EXPECT_EQ(timesteps_of(kPrk, 5),
            (std::vector<std::int64_t>{800, 700, 700, 600, 600, 500, 500, 400, 400, 300, 300, 200, 200, 0}));
  EXPECT_EQ(timesteps_of(kLcm, 4), (std::vector<std::int64_t>{999, 759, 499, 259}));
  for (const std::int64_t steps : {1, 61, 1000}) {
    EXPECT_EQ(timesteps_of(R"({"_class_name": "DDIMScheduler", "timestep_spacing": "trailing"})", steps).size(),
              static_cast<std::size_t>(steps));
  }
}

TEST(SchedulerTimesteps, RefusesNumbersOutOfRange) {
  for (const auto* config : kConfigs) {
    SCOPED_TRACE(config);
    const auto scheduler = Scheduler::from_json(config);
    EXPECT_EQ(scheduler->timesteps().size(0), 0);
    for (const std::int64_t steps : {-1, 0, 1001})
      expect_error<std::invalid_argument>([&] { scheduler->set_timesteps(steps); },
                                          {"from 1 to the 1000", "not " + std::to_string(steps)});
    EXPECT_EQ(scheduler->timesteps().size(0), 0);
  }
  const auto offset = Scheduler::from_json(kPlms);
  offset->set_timesteps(999);
  expect_error<std::invalid_argument>([&] { offset->set_timesteps(1000); }, {"steps_offset of 1", "999"});
  const auto lcm = Scheduler::from_json(kLcm);
  lcm->set_timesteps(50);
  expect_error<std::invalid_argument>([&] { lcm->set_timesteps(51); }, {"51", "original_inference_steps, 50"});
  const auto prk = Scheduler::from_json(kPrk);
  expect_error<std::invalid_argument>([&] { prk->set_timesteps(3); }, {"at least 4", "not 3", "skip_prk_steps"});
}

TEST(SchedulerStep, AddsNoiseIfItSaysSo) {
  const auto expect_said = [](const char* config, const StepOptions& options, bool expected) {
    SCOPED_TRACE(config);
    const auto scheduler = Scheduler::from_json(config);
    scheduler->set_timesteps(6);
    EXPECT_EQ(scheduler->adds_noise(options), expected);
    const auto sample = make_sample();
    if (expected)
      expect_error<std::invalid_argument>([&] { scheduler->step(sample, 0, sample, options); }, {"StepOptions::noise"});
    else
      scheduler->step(sample, 0, sample, options);
  };
  for (const auto* config : kConfigs)
    expect_said(config, {}, std::ranges::find(kStochastic, config) != std::end(kStochastic));
  expect_said(kDdim, {.eta = 0.5}, true);
  expect_said(kCompVisDdim, {.eta = 0.5}, true);
  expect_said(kEuler, {.s_churn = 1}, true);
}

TEST(SchedulerStep, RefusesIndicesOutOfOrder) {
  const auto scheduler = Scheduler::from_json(kPlms);
  const auto sample = make_sample();
  const auto step = [&](std::int64_t index) { return scheduler->step(sample, index, sample); };
  expect_error<std::invalid_argument>([&] { step(0); }, {"set_timesteps"});
  scheduler->set_timesteps(4);
  expect_error<std::invalid_argument>([&] { step(-1); }, {"from 0 to 4, not -1"});
  expect_error<std::invalid_argument>([&] { step(5); }, {"from 0 to 4, not 5"});
  step(0);
  expect_error<std::invalid_argument>([&] { step(2); }, {"2 can't follow step 0", "next is 1"});
  step(1);
  expect_error<std::invalid_argument>([&] { step(1); }, {"1 can't follow step 1"});
  step(2);
  step(0);
  step(1);

  EXPECT_TRUE(scheduler->scale_model_input(sample, 4).is_same(sample));
  EXPECT_THROW(scheduler->scale_model_input(sample, 5), std::invalid_argument);
  EXPECT_THROW(scheduler->scale_model_input(sample, -1), std::invalid_argument);
}

TEST(SchedulerStep, RefusesTensorsThatDoNotFit) {
  const auto sample = make_sample();
  for (const auto* config : kConfigs) {
    SCOPED_TRACE(config);
    const auto scheduler = Scheduler::from_json(config);
    scheduler->set_timesteps(4);
    const auto refuse = [&](const torch::Tensor& output, const torch::Tensor& input, const std::string& part) {
      expect_error<std::invalid_argument>([&] { scheduler->step(output, 0, input); }, {part});
    };
    refuse(sample.slice(0, 0, 1), sample, "[1, 3, 4, 4]");
    refuse(sample.to(torch::kFloat16), sample, "Half");
    refuse(sample.to(torch::kMeta), sample, "meta");
    refuse(sample.to(torch::kInt64), sample.to(torch::kInt64), "floating point");
    refuse(sample[0][0][0][0], sample[0][0][0][0], "batch");
    refuse(torch::Tensor(), sample, "tensor");
    refuse(sample, torch::Tensor(), "tensor");
    NoiseGenerator noise({0});
    const auto step = [&](std::int64_t index, const torch::Tensor& input) {
      scheduler->step(input, index, input, {.noise = &noise});
    };
    step(0, sample);
    const auto other = sample.slice(0, 0, 1);
    expect_error<std::invalid_argument>([&] { step(1, other); }, {"[2, 3, 4, 4]", "[1, 3, 4, 4]"});
    EXPECT_NO_THROW(step(0, other));
    EXPECT_NO_THROW(step(1, other));
  }
}

TEST(SchedulerStep, RefusesOptionsItCannotFollow) {
  const auto sample = make_sample();
  NoiseGenerator noise({0});
  const auto ddim = Scheduler::from_json(kDdim);
  ddim->set_timesteps(4);
  for (const double eta : {-0.1, 1.1, std::numeric_limits<double>::quiet_NaN()})
    expect_error<std::invalid_argument>([&] { ddim->step(sample, 0, sample, {.eta = eta, .noise = &noise}); },
                                        {"eta must be from 0 to 1"});
  expect_error<std::invalid_argument>([&] { ddim->step(sample, 0, sample, {.eta = 1.0}); }, {"StepOptions::noise"});
  NoiseGenerator three({0, 1, 2});
  expect_error<std::invalid_argument>([&] { ddim->step(sample, 0, sample, {.eta = 1.0, .noise = &three}); },
                                      {"3 seeds", "[2, 3, 4, 4]"});
  EXPECT_NO_THROW(ddim->step(sample, 0, sample, {.eta = 1.0, .noise = &noise}));

  const auto plms = Scheduler::from_json(kPlms);
  plms->set_timesteps(4);
  expect_error<std::invalid_argument>([&] { plms->step(sample, 0, sample, {.eta = 0.5, .noise = &noise}); },
                                      {"PNDMScheduler", "eta"});
  expect_error<std::invalid_argument>([&] { plms->step(sample, 0, sample, {.use_clipped_model_output = true}); },
                                      {"PNDMScheduler", "use_clipped_model_output"});
  EXPECT_NO_THROW(plms->step(sample, 0, sample, {.noise = &noise}));
}

TEST(SchedulerStep, RepeatedRunsEqualFreshOnes) {
  for (const auto* config : kConfigs) {
    SCOPED_TRACE(config);
    const auto expected = run_afresh(config);

    const auto scheduler = Scheduler::from_json(config);
    scheduler->set_timesteps(10);
    run(*scheduler);
    scheduler->set_timesteps(6);
    expect_same(run(*scheduler), expected);
    expect_same(run(*scheduler), expected);
    // A run left after three steps, then begun anew.
    NoiseGenerator noise({9});
    for (std::int64_t i = 0; i < 3; ++i) scheduler->step(make_sample(7), i, make_sample(8), {.noise = &noise});
    expect_same(run(*scheduler), expected);
  }
}

TEST(SchedulerStep, GoesOnAfterAnError) {
  for (const auto* config : kConfigs) {
    SCOPED_TRACE(config);
    const auto expected = run_afresh(config);

    const auto scheduler = Scheduler::from_json(config);
    scheduler->set_timesteps(6);
    NoiseGenerator noise({1});
    std::vector<torch::Tensor> samples{make_sample()};
    for (std::int64_t i = 0; i < scheduler->timesteps().size(0); ++i) {
      const auto& sample = samples.back();
      EXPECT_THROW(scheduler->step(sample[0], i, sample), std::invalid_argument);
      EXPECT_THROW(scheduler->step(sample, i + 2, sample, {.eta = 2.0}), std::invalid_argument);
      EXPECT_THROW(scheduler->set_timesteps(0), std::invalid_argument);
      samples.push_back(scheduler->step(sample / 2, i, sample, {.noise = &noise}));
    }
    expect_same(samples, expected);
  }
}

TEST(SchedulerStep, BeginsAtAnyStepAfterSetTimesteps) {
  for (const auto* config : kConfigs) {
    if (config == kPrk) continue;  // see below
    SCOPED_TRACE(config);
    const auto scheduler = Scheduler::from_json(config);
    scheduler->set_timesteps(6);
    const auto first_index = 3 * scheduler->order();
    const auto first = run(*scheduler, first_index);
    EXPECT_EQ(std::ssize(first), scheduler->timesteps().size(0) - first_index + 1);
    EXPECT_THROW(run(*scheduler, first_index), std::invalid_argument);
    scheduler->set_timesteps(6);
    expect_same(run(*scheduler, first_index), first);
  }
  const auto prk = Scheduler::from_json(kPrk);
  prk->set_timesteps(6);
  expect_error<std::invalid_argument>([&] { run(*prk, 3); }, {"step 3", "skip_prk_steps"});
  EXPECT_NO_THROW(run(*prk));
}

TEST(SchedulerStep, KeepsArgumentsAsTheyAre) {
  for (const auto* config : kConfigs) {
    SCOPED_TRACE(config);
    const auto scheduler = Scheduler::from_json(config);
    scheduler->set_timesteps(6);
    const auto samples = run(*scheduler);
    NoiseGenerator noise({1});
    auto sample = make_sample();
    for (std::int64_t i = 0; i < scheduler->timesteps().size(0); ++i) {
      expect_tensor_near(sample, samples[static_cast<std::size_t>(i)], 0.0);
      const auto output = sample / 2;
      const auto sample_before = sample.clone();
      const auto output_before = output.clone();
      const auto prev_sample = scheduler->step(output, i, sample, {.noise = &noise});
      expect_tensor_near(sample, sample_before, 0.0);
      expect_tensor_near(output, output_before, 0.0);
      sample = prev_sample;
    }
  }
}

TEST(SchedulerStep, KeepsTheDtype) {
  for (const auto* config : kConfigs) {
    SCOPED_TRACE(config);
    for (const auto dtype : {torch::kFloat64, torch::kFloat16, torch::kBFloat16}) {
      const auto scheduler = Scheduler::from_json(config);
      scheduler->set_timesteps(4);
      NoiseGenerator noise({1});
      auto sample = make_sample().to(dtype);
      for (std::int64_t i = 0; i < scheduler->timesteps().size(0); ++i) {
        sample = scheduler->step(sample, i, sample, {.noise = &noise});
        EXPECT_EQ(sample.scalar_type(), dtype);
      }
    }
  }
}

/// Tensors on the meta device hold no values: reading one, as a wait for another device would, throws. Thresholding
/// isn't among these, for LibTorch has no abs for that device.
TEST(SchedulerStep, ReadsNoValues) {
  NoiseGenerator noise({0});
  for (const auto* config : kConfigs) {
    SCOPED_TRACE(config);
    const auto scheduler = Scheduler::from_json(config);
    StepOptions options{.noise = &noise};
    if (scheduler->has_ddim_options()) options = {.eta = 1.0, .use_clipped_model_output = true, .noise = &noise};
    scheduler->set_timesteps(5);
    auto sample = make_sample().to(torch::kMeta);
    for (std::int64_t i = 0; i < scheduler->timesteps().size(0); ++i)
      ASSERT_NO_THROW(sample = scheduler->step(sample, i, sample, options));
    EXPECT_EQ(sample.device(), torch::kMeta);
  }
}

/// Where noise is drawn, an error comes late in the step.
TEST(SchedulerStep, GoesOnAfterNoiseThatDoesNotFit) {
  for (const auto* config : kStochastic) {
    SCOPED_TRACE(config);
    const auto expected = run_afresh(config);

    const auto scheduler = Scheduler::from_json(config);
    scheduler->set_timesteps(6);
    NoiseGenerator noise({1});
    NoiseGenerator three({0, 1, 2});
    std::vector<torch::Tensor> samples{make_sample()};
    for (std::int64_t i = 0; i < 6; ++i) {
      const auto& sample = samples.back();
      if (i < 5) {
        expect_error<std::invalid_argument>([&] { scheduler->step(sample, i, sample, {.noise = &three}); },
                                            {"3 seeds", "[2, 3, 4, 4]"});
        expect_error<std::invalid_argument>([&] { scheduler->step(sample, i, sample); }, {"StepOptions::noise"});
      }
      samples.push_back(scheduler->step(sample / 2, i, sample, {.noise = &noise}));
    }
    expect_same(samples, expected);
  }
}

/// Here diffusers takes the root of -6e-8.
TEST(SchedulerStep, IsFiniteWithEta1AtZeroTerminalSnr) {
  const auto scheduler = Scheduler::from_json(R"({"_class_name": "DDIMScheduler", "rescale_betas_zero_snr": true,
      "prediction_type": "v_prediction", "timestep_spacing": "trailing", "beta_schedule": "scaled_linear",
      "beta_start": 0.00085, "beta_end": 0.012})");
  scheduler->set_timesteps(7);
  EXPECT_TRUE(run(*scheduler, 0, {.eta = 1.0}).back().isfinite().all().item<bool>());
}

TEST(SchedulerAddNoise, RefusesTensorsThatDoNotFit) {
  const auto scheduler = Scheduler::from_json(kDdim);
  const auto sample = make_sample();
  const auto timesteps = torch::tensor({0, 999}, torch::kInt64);
  const auto refuse = [&](const torch::Tensor& original, const torch::Tensor& noise, const torch::Tensor& levels,
                          const std::string& part) {
    expect_error<std::invalid_argument>([&] { scheduler->add_noise(original, noise, levels); }, {part});
  };
  EXPECT_EQ(scheduler->add_noise(sample, sample, timesteps).sizes(), sample.sizes());
  EXPECT_EQ(scheduler->add_noise(sample, sample, timesteps.slice(0, 0, 1)).sizes(), sample.sizes());
  refuse(sample, sample[0], timesteps, "[3, 4, 4]");
  refuse(sample, sample.to(torch::kFloat16), timesteps, "Half");
  refuse(sample.to(torch::kInt64), sample, timesteps, "floating point");
  refuse(torch::Tensor(), sample, timesteps, "tensor");
  refuse(sample, torch::Tensor(), timesteps, "tensor");
  refuse(sample, sample, torch::Tensor(), "tensor");
  refuse(sample, sample, timesteps.to(torch::kFloat32), "int64");
  refuse(sample, sample, timesteps.repeat(2), "[2] or [1]");
  refuse(sample, sample, timesteps[0], "[2] or [1]");
  refuse(sample, sample, timesteps + 1, "from 0 to 999");
  refuse(sample, sample, timesteps - 1, "from 0 to 999");
}

TEST(SchedulerAddNoise, ToWhatAStepOfTheRunBeginsWith) {
  const auto sample = make_sample();
  const auto noise = torch::ones_like(sample);
  for (const auto* name : {"ddim", "plms", "ddpm", "lcm", "euler", "euler_a", "heun", "dpm++_2m", "unipc"}) {
    SCOPED_TRACE(name);
    const auto scheduler = Scheduler::from_json(kDdim, name);
    scheduler->set_timesteps(4);
    const auto calls = scheduler->timesteps().size(0);
    for (std::int64_t i = 0; i < calls; ++i)
      EXPECT_TRUE(scheduler->add_noise_at(sample, noise, i)
                      .equal(scheduler->add_noise(sample, noise, scheduler->timesteps().slice(0, i, i + 1))));
    for (const auto step_index : {std::int64_t{-1}, calls})
      expect_error<std::invalid_argument>([&] { scheduler->add_noise_at(sample, noise, step_index); },
                                          {"from 0 to " + std::to_string(calls - 1), std::to_string(step_index)});
    EXPECT_THROW(scheduler->add_noise_at(sample, noise[0], 0), std::invalid_argument);
  }
}

TEST(DDPM, LearnedVariancesAreInTheModelsOutput) {
  const std::shared_ptr scheduler = Scheduler::from_json(R"({"_class_name": "DDPMScheduler"})");
  const std::shared_ptr learned = Scheduler::from_json(R"({"variance_type": "learned_range"})", "ddpm");
  const auto sample = torch::ones({1, 3, 4, 4});
  for (const auto& [which, output] : {std::pair{learned, sample}, {scheduler, torch::ones({1, 6, 4, 4})}}) {
    which->set_timesteps(4);
    expect_error<std::invalid_argument>([&, &which = which, &output = output] { which->step(output, 0, sample); },
                                        {"the model's output must have the shape", "it is"});
  }
  expect_error<std::invalid_argument>([&] { learned->step(sample, 0, sample); },
                                      {"with twice its channels, [1, 6, 4, 4]"});
}

}  // namespace
}  // namespace deepcache::scheduler_test
