// What a video needs of a scheduler whose frames part in the middle of a run.

#include <gtest/gtest.h>

#include <string>

#include "deepcache/noise.hpp"
#include "deepcache/scheduler.hpp"
#include "expect_error.hpp"
#include "tensor_near.hpp"

namespace deepcache::scheduler_clone_test {
namespace {

/// With betas, for which LCM has other defaults.
constexpr const char* kConfig = R"({"_class_name": "DDIMScheduler", "solver_order": 3, "beta_schedule": "linear",
    "beta_start": 0.0001, "beta_end": 0.02})";
constexpr const char* kDeterministic[] = {"ddim", "plms", "euler", "heun", "dpm++_2m", "unipc", "PNDMScheduler"};
constexpr const char* kStochastic[] = {"ddpm", "lcm", "euler_a", "dpm++_2m_sde"};

torch::Tensor make_sample(std::int64_t batch, std::uint64_t seed = 0) {
  return NoiseGenerator({seed}).randn({batch, 3, 4, 4}, torch::kFloat32);
}

/// The sample after calls `begin` to `end` of a model that halves its input, with noise of its own.
torch::Tensor run(Scheduler& scheduler, torch::Tensor sample, std::int64_t begin, std::int64_t end) {
  NoiseGenerator noise({1});
  for (auto i = begin; i < end; ++i) sample = scheduler.step(sample / 2, i, sample, {.noise = &noise});
  return sample;
}

TEST(SchedulerClone, BothGoOnFromTheSamePlace) {
  std::vector<std::string> names(std::begin(kDeterministic), std::end(kDeterministic));
  names.insert(names.end(), std::begin(kStochastic), std::end(kStochastic));
  for (const auto& name : names) {
    SCOPED_TRACE(name);
    const auto scheduler = Scheduler::from_json(kConfig, name);
    scheduler->set_timesteps(6);
    const auto calls = scheduler->timesteps().size(0);
    for (const std::int64_t place : {0, 1, 3}) {
      const auto sample = run(*scheduler, make_sample(2), 0, place);
      const auto copy = scheduler->clone();
      EXPECT_EQ(copy->name(), scheduler->name());
      const auto expected = run(*scheduler, sample, place, calls);
      expect_tensor_near(run(*copy, sample, place, calls), expected, 0.0);
    }
  }
}

TEST(SchedulerClone, SeveralSamplesGoOnFromOne) {
  for (const auto* name : kDeterministic) {
    SCOPED_TRACE(name);
    const auto scheduler = Scheduler::from_json(kConfig, name);
    scheduler->set_timesteps(6);
    const auto calls = scheduler->timesteps().size(0);
    for (const std::int64_t place : {1, 2, 4}) {
      const auto one = run(*scheduler, make_sample(1), 0, place);
      const auto several = scheduler->clone();
      const auto expected = run(*scheduler, one, place, calls);
      const auto actual = run(*several, one.repeat({3, 1, 1, 1}), place, calls);
      for (std::int64_t i = 0; i < 3; ++i) expect_tensor_near(actual[i], expected[0], 1e-6);
    }
  }
}

TEST(SchedulerClone, OtherShapesDoNotFollowEachOther) {
  const auto scheduler = Scheduler::from_json(kConfig, "plms");
  scheduler->set_timesteps(6);
  const auto follow = [&](const torch::Tensor& first, const torch::Tensor& second) {
    scheduler->step(first, 0, first);
    expect_error<std::invalid_argument>([&] { scheduler->step(second, 1, second); }, {"shape changed within the run"});
  };
  follow(make_sample(2), make_sample(3));
  follow(make_sample(2), make_sample(1));
  follow(make_sample(1), make_sample(2).slice(3, 0, 3));
}

TEST(SchedulerAddNoiseBetween, GoesOnWhereAddNoiseEnds) {
  const auto sample = make_sample(2), noise = make_sample(2, 1);
  for (const auto* name : {"ddim", "plms", "ddpm", "lcm", "dpm++_2m", "unipc"}) {
    SCOPED_TRACE(name);
    const auto scheduler = Scheduler::from_json(kConfig, name);
    EXPECT_TRUE(scheduler->add_noise_between(sample, noise, 300, 300).equal(sample));
    // From nothing to a timestep, which is counted from 0.
    expect_tensor_near(scheduler->add_noise_between(sample, noise, 0, 301),
                       Scheduler::from_json(kConfig)->add_noise(sample, noise, torch::tensor({300})), 1e-6);
    // In two parts: the shares of the sample multiply.
    const auto zero = torch::zeros_like(noise);
    const auto part = scheduler->add_noise_between(sample, zero, 100, 500);
    expect_tensor_near(scheduler->add_noise_between(part, zero, 500, 800),
                       scheduler->add_noise_between(sample, zero, 100, 800), 1e-6);
  }
}

TEST(SchedulerAddNoiseBetween, RefusesWhatItCanNotDo) {
  const auto sample = make_sample(2);
  const auto scheduler = Scheduler::from_json(kConfig);
  const auto refuse = [&](std::int64_t from, std::int64_t to, const torch::Tensor& noise, const std::string& part) {
    expect_error<std::invalid_argument>([&] { scheduler->add_noise_between(sample, noise, from, to); }, {part});
  };
  refuse(5, 4, sample, "from 0 to 1000, not from 5 to 4");
  refuse(-1, 4, sample, "not from -1 to 4");
  refuse(0, 1001, sample, "not from 0 to 1001");
  refuse(0, 4, sample[0], "[3, 4, 4]");
  refuse(0, 4, torch::Tensor(), "tensor");
  for (const auto* name : {"euler", "euler_a", "heun"})
    expect_error<std::invalid_argument>(
        [&] { Scheduler::from_json(kConfig, name)->add_noise_between(sample, sample, 0, 4); },
        {"Scheduler", "samples aren't those of DDPM"});
}

}  // namespace
}  // namespace deepcache::scheduler_clone_test
