#include <gtest/gtest.h>

#include <cstdint>
#include <string>
#include <vector>

#include "deepcache/noise.hpp"
#include "deepcache/scheduler.hpp"
#include "expect_error.hpp"
#include "tensor_near.hpp"

// The multistep solvers: DPM-Solver and UniPC.
namespace deepcache::multistep_solver_test {
namespace {

/// Stable Diffusion's noise schedule, and `settings` before it.
std::unique_ptr<Scheduler> make(const std::string& name, const std::string& settings = "") {
  return Scheduler::from_json(
      "{" + settings + R"("beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"})", name);
}

torch::Tensor make_sample() {
  return NoiseGenerator({0}).randn({2, 3, 4, 4}, torch::kFloat32);
}

/// The samples after each step from `first` on, of a model that halves its input.
std::vector<torch::Tensor> run(Scheduler& scheduler, std::int64_t first = 0) {
  NoiseGenerator noise({1});
  std::vector<torch::Tensor> samples{make_sample()};
  for (auto i = first; i < scheduler.timesteps().size(0); ++i)
    samples.push_back(scheduler.step(samples.back() / 2, i, samples.back(), {.noise = &noise}));
  return samples;
}

TEST(MultistepSolver, Timesteps) {
  struct {
    const char* name;
    const char* settings;
    std::int64_t steps;
    std::vector<std::int64_t> expected;
  } const cases[] = {
      {"dpm++_2m", "", 1, {999}},
      {"dpm++_2m", "", 4, {999, 749, 500, 250}},
      {"dpm++_2m", R"("timestep_spacing": "leading", "steps_offset": 1, )", 4, {801, 601, 401, 201}},
      {"dpm++_2m", R"("timestep_spacing": "trailing", )", 4, {999, 749, 499, 249}},
      {"dpm++_2m", R"("lambda_min_clipped": -2, )", 4, {876, 657, 438, 219}},
      {"dpm++_2m", R"("lambda_min_clipped": -2, "timestep_spacing": "leading", )", 4, {700, 525, 350, 175}},
      // Steps as wide as without the clipping, so that two are missing.
      {"dpm++_2m",
       R"("lambda_min_clipped": -2, "timestep_spacing": "trailing", )",
       20,
       {876, 826, 776, 726, 676, 626, 576, 526, 476, 426, 376, 326, 276, 226, 176, 126, 76, 26}},
      {"dpm++_2m_karras", "", 4, {999, 687, 146, 0}},
      {"dpm++_2m_karras", R"("sigma_min": 1, "sigma_max": 5, )", 3, {795, 607, 354}},
      {"dpm++_2m_karras", R"("use_exponential_sigmas": true, )", 4, {999, 687, 146, 0}},
      {"dpm++_2m_karras", R"("use_beta_sigmas": true, )", 4, {999, 687, 146, 0}},
      {"dpm++_2m_karras", R"("use_lu_lambdas": true, )", 4, {999, 687, 146, 0}},
      {"dpm++_2m_sde_karras", "", 4, {999, 687, 146, 0}},
      {"unipc", "", 4, {999, 749, 500, 250}},
      {"unipc", R"("lambda_min_clipped": -2, )", 4, {999, 749, 500, 250}},
      {"unipc", R"("use_karras_sigmas": true, )", 4, {999, 687, 146, 0}},
      {"unipc", R"("timestep_spacing": "trailing", )", 1, {999}},
  };
  for (const auto& test : cases) {
    SCOPED_TRACE(std::string(test.name) + " " + test.settings + std::to_string(test.steps));
    const auto scheduler = make(test.name, test.settings);
    scheduler->set_timesteps(test.steps);
    EXPECT_EQ(scheduler->init_noise_sigma(), 1.0);
    const auto timesteps = scheduler->timesteps();
    const auto* values = timesteps.const_data_ptr<std::int64_t>();
    EXPECT_EQ(std::vector<std::int64_t>(values, values + timesteps.numel()), test.expected);
  }
}

TEST(MultistepSolver, RefusesUnsupportedSettings) {
  struct {
    const char* name;
    const char* settings;
    std::vector<std::string> message;
  } const cases[] = {
      {"DPMSolverMultistepScheduler", R"("solver_order": 0)", {"solver_order", "is 0;", "from 1 to 3"}},
      {"DPMSolverMultistepScheduler", R"("solver_order": 4)", {"solver_order", "is 4;"}},
      {"DPMSolverMultistepScheduler",
       R"("algorithm_type": "dpmsolver+")",
       {"algorithm_type", R"("dpmsolver", "dpmsolver++")"}},
      {"DPMSolverMultistepScheduler",
       R"("algorithm_type": "dpmsolver")",
       {"final_sigmas_type", "sigma_min", "algorithm_type"}},
      {"DPMSolverMultistepScheduler",
       R"("algorithm_type": "sde-dpmsolver")",
       {"final_sigmas_type", "sigma_min", "sde-dpmsolver"}},
      {"DPMSolverMultistepScheduler",
       R"("algorithm_type": "sde-dpmsolver", "final_sigmas_type": "sigma_min", "solver_order": 3)",
       {"solver_order", "is 3;", "sde-dpmsolver"}},
      {"DPMSolverMultistepScheduler", R"("solver_type": "euler")", {"solver_type", R"("midpoint", "heun")"}},
      {"DPMSolverMultistepScheduler", R"("lower_order_final": 1)", {"lower_order_final"}},
      {"DPMSolverMultistepScheduler", R"("euler_at_final": null)", {"euler_at_final"}},
      {"DPMSolverMultistepScheduler", R"("use_karras_sigmas": "yes")", {"use_karras_sigmas"}},
      {"DPMSolverMultistepScheduler",
       R"("use_karras_sigmas": true, "use_exponential_sigmas": true)",
       {"use_karras_sigmas", "use_exponential_sigmas"}},
      {"DPMSolverMultistepScheduler",
       R"("use_beta_sigmas": true, "use_exponential_sigmas": true)",
       {"use_exponential_sigmas", "use_beta_sigmas", "only one"}},
      {"DPMSolverMultistepScheduler", R"("use_beta_sigmas": "yes")", {"use_beta_sigmas"}},
      {"DPMSolverMultistepScheduler", R"("use_flow_sigmas": 1)", {"use_flow_sigmas"}},
      {"DPMSolverMultistepScheduler", R"("flow_shift": 0)", {"flow_shift", "is 0;"}},
      {"dpm++_2m_karras", R"("use_flow_sigmas": true)", {"use_flow_sigmas", "can't be combined"}},
      {"DPMSolverMultistepScheduler",
       R"("use_flow_sigmas": true, "prediction_type": "flow_prediction", "algorithm_type": "dpmsolver",
          "final_sigmas_type": "sigma_min")",
       {"algorithm_type", "dpmsolver++", "flow_prediction"}},
      {"DPMSolverMultistepScheduler", R"("use_lu_lambdas": 1)", {"use_lu_lambdas"}},
      {"DPMSolverMultistepScheduler", R"("final_sigmas_type": "one")", {"final_sigmas_type", R"("zero", "sigma_min")"}},
      {"DPMSolverMultistepScheduler", R"("lambda_min_clipped": "low")", {"lambda_min_clipped", "\"low\""}},
      {"DPMSolverMultistepScheduler", R"("lambda_min_clipped": Infinity)", {"lambda_min_clipped", "Infinity"}},
      {"DPMSolverMultistepScheduler", R"("lambda_min_clipped": 100)", {"lambda_min_clipped", "is 100;"}},
      {"DPMSolverMultistepScheduler", R"("variance_type": "learned")", {"variance_type", "\"learned\"", "fixed_large"}},
      {"DPMSolverMultistepScheduler", R"("variance_type": "learned_range")", {"variance_type", "\"learned_range\""}},
      {"DPMSolverMultistepScheduler",
       R"("prediction_type": "flow_prediction")",
       {"prediction_type", "\"flow_prediction\"", "use_flow_sigmas"}},
      {"DPMSolverMultistepScheduler", R"("thresholding": 1)", {"thresholding"}},
      {"DPMSolverMultistepScheduler", R"("timestep_spacing": "log")", {"timestep_spacing"}},
      {"DPMSolverMultistepScheduler", R"("steps_offset": -1)", {"steps_offset"}},
      {"DPMSolverMultistepScheduler", R"("rescale_betas_zero_snr": 1)", {"rescale_betas_zero_snr"}},
      {"DPMSolverMultistepScheduler", R"("sigma_min": 0)", {"sigma_min", "is 0;"}},
      {"dpm++_2m_sde", R"("solver_order": 4)", {"solver_order"}},
      {"unipc", R"("solver_order": 4)", {"solver_order", "is 4;"}},
      {"unipc", R"("solver_type": "bh3")", {"solver_type", R"("bh1", "bh2")"}},
      {"unipc", R"("solver_type": "bh1")", {"final_sigmas_type", "sigma_min", "bh2"}},
      {"unipc", R"("predict_x0": false)", {"final_sigmas_type", "sigma_min", "predict_x0"}},
      {"unipc", R"("lower_order_final": false)", {"final_sigmas_type", "sigma_min", "lower_order_final"}},
      {"unipc", R"("predict_x0": 1)", {"predict_x0"}},
      {"unipc", R"("disable_corrector": 1)", {"disable_corrector", "a list of integers"}},
      {"unipc", R"("disable_corrector": [0.5])", {"disable_corrector", "[0.5]"}},
      {"unipc", R"("disable_corrector": null)", {"disable_corrector", "null"}},
      {"unipc", R"("solver_p": {})", {"solver_p", "null"}},
      {"unipc",
       R"("use_beta_sigmas": true, "use_karras_sigmas": true)",
       {"use_karras_sigmas", "use_beta_sigmas", "only one"}},
      {"unipc", R"("use_flow_sigmas": true, "use_beta_sigmas": true)", {"use_flow_sigmas", "can't be combined"}},
      {"unipc",
       R"("use_flow_sigmas": true, "prediction_type": "flow_prediction", "predict_x0": false,
          "final_sigmas_type": "sigma_min")",
       {"predict_x0", "flow_prediction"}},
      {"unipc", R"("prediction_type": "flow_prediction")", {"prediction_type"}},
  };
  for (const auto& test : cases) {
    SCOPED_TRACE(std::string(test.name) + " " + test.settings);
    const auto json = std::string("{") + test.settings + "}";
    expect_error<std::runtime_error>([&] { Scheduler::from_json(json, test.name); }, test.message);
  }
  EXPECT_NO_THROW(make("unipc", R"("lower_order_final": false, "solver_order": 1, )"));
}

/// There diffusers divides by 0.
TEST(MultistepSolver, RefusesStepsThatBeginAtOneNoiseLevel) {
  for (const auto* name : {"dpm++_2m", "unipc"}) {
    const auto linspace = make(name);
    linspace->set_timesteps(20);
    expect_error<std::invalid_argument>([&] { linspace->set_timesteps(1000); },
                                        {"1000 inference steps", "noise level"});
    EXPECT_EQ(linspace->timesteps().size(0), 20);
    EXPECT_EQ(run(*linspace).size(), 21U);
    const auto leading = make(name, R"("timestep_spacing": "leading", )");
    leading->set_timesteps(999);
    EXPECT_THROW(leading->set_timesteps(1000), std::invalid_argument);
    const auto offset = make(name, R"("timestep_spacing": "leading", "steps_offset": 1, )");
    offset->set_timesteps(998);
    expect_error<std::invalid_argument>([&] { offset->set_timesteps(999); }, {"steps_offset of 1", "999"});
    EXPECT_NO_THROW(make(name, R"("timestep_spacing": "trailing", )")->set_timesteps(1000));
  }
}

/// Sigmas that end with sigma_min twice: nothing is left for the last step, where diffusers divides 0 by 0.
TEST(MultistepSolver, StaysWhereTheNoiseLevelDoes) {
  struct {
    const char* name;
    const char* settings;
  } const cases[] = {
      {"dpm++_2m", R"("timestep_spacing": "trailing", "solver_order": 3, )"},
      {"dpm++_2m", R"("timestep_spacing": "trailing", "solver_type": "heun", )"},
      {"dpm++_2m_sde", R"("timestep_spacing": "trailing", "solver_order": 3, )"},
      {"unipc", R"("timestep_spacing": "trailing", "solver_order": 3, "lower_order_final": false, )"},
  };
  for (const auto& test : cases) {
    SCOPED_TRACE(std::string(test.name) + " " + test.settings);
    const auto scheduler = make(test.name, test.settings + std::string(R"("final_sigmas_type": "sigma_min", )"));
    scheduler->set_timesteps(1000);
    ASSERT_EQ(scheduler->timesteps()[-1].item<std::int64_t>(), 0);
    const auto samples = run(*scheduler, 990);
    EXPECT_TRUE(samples.back().isfinite().all().item<bool>());
    if (test.name != std::string("unipc")) expect_tensor_near(samples.back(), samples[samples.size() - 2], 0.0);
  }
}

TEST(MultistepSolver, KarrasSigmasThatEndTwiceAreFinite) {
  for (const auto* name : {"dpm++_2m", "dpm++_2m_sde", "unipc"}) {
    for (const auto* settings : {R"("solver_order": 3, )", R"("solver_type": "heun", )", ""}) {
      SCOPED_TRACE(std::string(name) + " " + settings);
      const auto scheduler =
          make(name, settings + std::string(R"("use_karras_sigmas": true, "final_sigmas_type": "sigma_min",
                                               "lower_order_final": false, )"));
      scheduler->set_timesteps(20);
      EXPECT_TRUE(run(*scheduler).back().isfinite().all().item<bool>());
    }
  }
}

TEST(MultistepSolver, AddNoiseKnowsTheRunsTimesteps) {
  for (const auto* name : {"dpm++_2m", "unipc"}) {
    const auto scheduler = make(name);
    const auto sample = make_sample();
    const auto noise = NoiseGenerator({2}).randn(sample.sizes(), torch::kFloat32);
    const auto add = [&](const torch::Tensor& timesteps) { return scheduler->add_noise(sample, noise, timesteps); };
    expect_error<std::invalid_argument>([&] { add(torch::tensor({999}, torch::kInt64)); }, {"999", "the run"});
    scheduler->set_timesteps(4);
    expect_error<std::invalid_argument>([&] { add(torch::tensor({998}, torch::kInt64)); }, {"998", "the run's 4"});
    expect_error<std::invalid_argument>([&] { add(torch::tensor({999.0}, torch::kFloat32)); }, {"int64"});
    expect_error<std::invalid_argument>([&] { scheduler->add_noise(sample, noise[0], scheduler->timesteps()[0]); },
                                        {"[3, 4, 4]"});
    // What DDPM's forward process makes of the same timestep.
    const auto ddpm = make("ddpm");
    const auto timesteps = torch::tensor({749, 250}, torch::kInt64);
    expect_tensor_near(add(timesteps), ddpm->add_noise(sample, noise, timesteps), 1e-6);
  }
}

}  // namespace
}  // namespace deepcache::multistep_solver_test
