#include <gtest/gtest.h>

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "deepcache/scheduler.hpp"
#include "expect_error.hpp"
#include "io/files.hpp"

namespace deepcache::scheduler_config_test {
namespace {

constexpr const char* kPlms = R"({"_class_name": "PNDMScheduler", "skip_prk_steps": true, "steps_offset": 1})";
constexpr const char* kPrk = R"({"_class_name": "PNDMScheduler"})";
constexpr const char* kDdim = R"({"_class_name": "DDIMScheduler"})";

TEST(SchedulerConfig, ChoosesTheClass) {
  struct {
    const char* json;
    const char* class_name;
    const char* expected_name;
    std::int64_t expected_calls;  // at 10 inference steps
  } const cases[] = {
      {kDdim, "", "DDIMScheduler", 10},
      {kPlms, "", "PNDMScheduler", 11},
      {kPrk, "", "PNDMScheduler", 19},
      {kPrk, "plms", "PNDMScheduler", 11},
      {kPlms, "ddim", "DDIMScheduler", 10},
      {kDdim, "PNDMScheduler", "PNDMScheduler", 19},
      {kDdim, "DDIMScheduler", "DDIMScheduler", 10},
      {R"({"_class_name": "EulerDiscreteScheduler", "interpolation_type": "linear"})", "ddim", "DDIMScheduler", 10},
      {"{}", "plms", "PNDMScheduler", 11},
      {"{}", "ddpm", "DDPMScheduler", 10},
      {"{}", "lcm", "LCMScheduler", 10},
      {kDdim, "dpm++_2m", "DPMSolverMultistepScheduler", 10},
      {kPlms, "dpm++_2m_karras", "DPMSolverMultistepScheduler", 10},
      {"{}", "dpm++_2m_sde", "DPMSolverMultistepScheduler", 10},
      {"{}", "dpm++_2m_sde_karras", "DPMSolverMultistepScheduler", 10},
      {kPlms, "unipc", "UniPCMultistepScheduler", 10},
  };
  for (const auto& test : cases) {
    SCOPED_TRACE(std::string(test.json) + " as " + test.class_name);
    const auto scheduler = Scheduler::from_json(test.json, test.class_name);
    EXPECT_EQ(scheduler->name(), test.expected_name);
    EXPECT_EQ(scheduler->num_train_timesteps(), 1000);
    EXPECT_EQ(scheduler->init_noise_sigma(), 1.0);
    scheduler->set_timesteps(10);
    EXPECT_EQ(scheduler->timesteps().size(0), test.expected_calls);
  }
}

TEST(SchedulerConfig, ConfiguredNamesMakeTheSame) {
  for (const auto& [made_by, name] : {std::pair{"", "DDIMScheduler"},
                                      {"ddim", "DDIMScheduler"},
                                      {"plms", "plms"},
                                      {"PNDMScheduler", "PNDMScheduler"},
                                      {"dpm++_2m", "DPMSolverMultistepScheduler"},
                                      {"dpm++_2m_sde_karras", "dpm++_2m_sde_karras"},
                                      {"generalized_ddim_quad", "generalized_ddim_quad"}}) {
    const auto scheduler = Scheduler::from_json(kDdim, made_by);
    EXPECT_EQ(scheduler->configured_name(), name);
    EXPECT_EQ(scheduler->clone()->configured_name(), name);
    const auto again = Scheduler::from_json(kDdim, name);
    scheduler->set_timesteps(9);
    again->set_timesteps(9);
    EXPECT_TRUE(again->timesteps().equal(scheduler->timesteps()));
  }
}

TEST(SchedulerConfig, RefusesUnknownClasses) {
  const auto known = "DDIMScheduler, PNDMScheduler, ";
  expect_error<std::invalid_argument>([] { Scheduler::from_json(kDdim, "DDIM"); }, {"\"DDIM\"", known});
  expect_error<std::runtime_error>([] { Scheduler::from_json(R"({"_class_name": "NoScheduler"})"); },
                                   {"NoScheduler", known});
  expect_error<std::runtime_error>([] { Scheduler::from_json(R"({"_class_name": ["DDIMScheduler"]})"); },
                                   {R"(["DDIMScheduler"])", known});
  expect_error<std::runtime_error>([] { Scheduler::from_json("{}"); }, {"_class_name"});
}

TEST(SchedulerConfig, RefusesTextThatIsNoConfiguration) {
  expect_error<std::runtime_error>([] { Scheduler::from_json("{", "ddim"); }, {"JSON"});
  expect_error<std::runtime_error>([] { Scheduler::from_json("", "ddim"); }, {"JSON"});
  expect_error<std::runtime_error>([] { Scheduler::from_json(R"({"beta_end": 1e999})", "ddim"); }, {"JSON"});
  expect_error<std::runtime_error>([] { Scheduler::from_json("[1]", "ddim"); }, {"object", "array"});
  expect_error<std::runtime_error>([] { Scheduler::from_json("[1]"); }, {"_class_name"});
}

TEST(SchedulerConfig, RefusesUnsupportedValues) {
  struct {
    const char* class_name;
    const char* setting;
    std::vector<std::string> message;
  } const cases[] = {
      {"ddim", R"("num_train_timesteps": 0)", {"num_train_timesteps", "is 0;", "from 1 to 1000000"}},
      {"ddim", R"("num_train_timesteps": 1000.0)", {"num_train_timesteps", "1000.0", "an integer"}},
      {"ddim", R"("num_train_timesteps": 18446744073709551615)", {"18446744073709551615"}},
      {"ddim", R"("beta_start": "0.1")", {"beta_start", "\"0.1\"", "a number from 0 to 1"}},
      {"ddim", R"("beta_start": -0.1)", {"beta_start", "-0.1"}},
      {"ddim", R"("beta_end": 1.5)", {"beta_end", "1.5"}},
      {"ddim",
       R"("beta_schedule": "sigmoid")",
       {"beta_schedule", "\"sigmoid\"", R"("linear", "scaled_linear", "squaredcos_cap_v2")"}},
      {"ddim", R"("beta_schedule": 1)", {"beta_schedule", "is 1;"}},
      {"ddim", R"("beta_schedule": null)", {"beta_schedule", "null"}},
      {"ddim", R"("trained_betas": [])", {"trained_betas", "[]", "null or a list"}},
      {"ddim", R"("trained_betas": 0.1)", {"trained_betas", "0.1"}},
      {"ddim", R"("trained_betas": [0.1, "x"])", {"trained_betas", "[0.1,\"x\"]"}},
      {"ddim", R"("trained_betas": [0.1, 2])", {"trained_betas", "from 0 to 1"}},
      {"ddim", R"("trained_betas": [0.1, 0.2])", {"trained_betas", "has 2 values", "1000"}},
      {"ddim", R"("clip_sample": 1)", {"clip_sample", "is 1;", "true or false"}},
      {"ddim", R"("clip_sample_range": -1)", {"clip_sample_range", "-1", "at least 0"}},
      {"ddim", R"("thresholding": "yes")", {"thresholding", "\"yes\""}},
      {"ddim", R"("dynamic_thresholding_ratio": 1.1)", {"dynamic_thresholding_ratio", "1.1", "from 0 to 1"}},
      {"ddim", R"("sample_max_value": 0)", {"sample_max_value", "is 0;", "at least"}},
      {"ddim", R"("set_alpha_to_one": null)", {"set_alpha_to_one", "null"}},
      {"ddim", R"("steps_offset": -1)", {"steps_offset", "-1"}},
      {"ddim", R"("timestep_spacing": "log")", {"timestep_spacing", R"("leading", "trailing", "linspace")"}},
      {"ddim", R"("prediction_type": "flow")", {"prediction_type", R"("epsilon", "sample", "v_prediction")"}},
      {"ddim", R"("rescale_betas_zero_snr": 0)", {"rescale_betas_zero_snr"}},
      {"plms", R"("prediction_type": "sample")", {"prediction_type", "\"sample\"", R"("epsilon", "v_prediction")"}},
      {"plms", R"("skip_prk_steps": 1)", {"skip_prk_steps", "is 1;"}},
      {"plms", R"("set_alpha_to_one": 1)", {"set_alpha_to_one", "is 1;"}},
      {"plms", R"("timestep_spacing": "log")", {"timestep_spacing"}},
      {"plms", R"("steps_offset": 0.5)", {"steps_offset", "0.5"}},
      {"plms", R"("beta_end": -Infinity)", {"beta_end", "-Infinity", "a number from 0 to 1"}},
      {"ddpm", R"("beta_schedule": "cosine")", {"beta_schedule", R"("squaredcos_cap_v2", "sigmoid")"}},
      {"ddpm", R"("variance_type": "fixed_large_log")", {"variance_type", "\"fixed_large_log\"", "learned_range"}},
      {"ddpm", R"("clip_sample": 1)", {"clip_sample", "is 1;"}},
      {"ddpm", R"("prediction_type": "flow")", {"prediction_type"}},
      {"ddpm", R"("timestep_spacing": "log")", {"timestep_spacing"}},
      {"ddpm", R"("steps_offset": -1)", {"steps_offset"}},
      {"ddpm", R"("rescale_betas_zero_snr": 0)", {"rescale_betas_zero_snr"}},
      {"lcm", R"("original_inference_steps": 0)", {"original_inference_steps", "is 0;"}},
      {"lcm", R"("original_inference_steps": 1001)", {"original_inference_steps", "is 1001;", "the 1000"}},
      {"lcm", R"("timestep_scaling": -1)", {"timestep_scaling", "-1", "at least 0"}},
      {"lcm", R"("beta_schedule": "sigmoid")", {"beta_schedule"}},
      {"lcm", R"("thresholding": 1)", {"thresholding"}},
      {"lcm", R"("prediction_type": null)", {"prediction_type"}},
      {"lcm", R"("rescale_betas_zero_snr": 0)", {"rescale_betas_zero_snr"}},
  };
  for (const auto& test : cases) {
    SCOPED_TRACE(test.setting);
    const auto json = std::string("{") + test.setting + "}";
    expect_error<std::runtime_error>([&] { Scheduler::from_json(json, test.class_name); }, test.message);
  }
}

TEST(SchedulerConfig, IgnoresWhatTheClassDoesNotHave) {
  EXPECT_NO_THROW(Scheduler::from_json(R"({"skip_prk_steps": "?", "made_up": [1]})", "ddim"));
  EXPECT_NO_THROW(Scheduler::from_json(R"({"clip_sample": "?", "thresholding": 3})", "plms"));
}

/// Python's json module writes them, and diffusers saves a lambda_min_clipped of -Infinity.
TEST(SchedulerConfig, ReadsNumbersThatJsonDoesNotHave) {
  EXPECT_NO_THROW(Scheduler::from_json(R"({"a": [-Infinity, Infinity,NaN], "b\\": NaN, "c": "\" NaN"})", "ddim"));
  expect_error<std::runtime_error>([] { Scheduler::from_json(R"({"a": Nan})", "ddim"); }, {"JSON"});
  expect_error<std::runtime_error>([] { Scheduler::from_json(R"({"_class_name": "NaN\\"})"); }, {R"("NaN\\")"});
}

TEST(SchedulerConfig, ReadsFilesAndNamesThemInErrors) {
  const auto file = std::filesystem::path(testing::TempDir()) / "scheduler_config.json";
  write_file(file, kPlms);
  EXPECT_EQ(Scheduler::from_config(file)->name(), "PNDMScheduler");
  EXPECT_EQ(Scheduler::from_config(file, "ddim")->name(), "DDIMScheduler");
  expect_error<std::invalid_argument>([&] { Scheduler::from_config(file, "no_such"); }, {"no_such"});
  write_file(file, R"({"_class_name": "DDIMScheduler", "beta_end": null})");
  expect_error<std::runtime_error>([&] { Scheduler::from_config(file); }, {"scheduler_config.json", "beta_end"});
  write_file(file, "{");
  expect_error<std::runtime_error>([&] { Scheduler::from_config(file); }, {"scheduler_config.json", "JSON"});
  std::filesystem::remove(file);
  expect_error<std::runtime_error>([&] { Scheduler::from_config(file); }, {"scheduler_config.json"});
}

}  // namespace
}  // namespace deepcache::scheduler_config_test
