#include <gtest/gtest.h>

#include "deepcache/scheduler.hpp"
#include "expect_error.hpp"

namespace deepcache::generalized_ddim_test {
namespace {

std::vector<std::int64_t> timesteps(std::string_view name, std::int64_t steps, std::string_view config = "{}") {
  const auto scheduler = Scheduler::from_json(config, name);
  scheduler->set_timesteps(steps);
  const auto& values = scheduler->timesteps();
  return {values.const_data_ptr<std::int64_t>(), values.const_data_ptr<std::int64_t>() + values.numel()};
}

TEST(GeneralizedDDIM, SpacesTimestepsEvenlyOrQuadratically) {
  EXPECT_EQ(timesteps("generalized_ddim", 4), (std::vector<std::int64_t>{750, 500, 250, 0}));
  // A stride of 333 fits a fourth time.
  EXPECT_EQ(timesteps("generalized_ddim", 3), (std::vector<std::int64_t>{999, 666, 333, 0}));
  EXPECT_EQ(timesteps("generalized_ddim_quad", 5), timesteps("generalized_ddim", 5, R"({"skip_type": "quad"})"));
  EXPECT_EQ(timesteps("generalized_ddim_quad", 5), (std::vector<std::int64_t>{800, 450, 200, 50, 0}));
  EXPECT_EQ(timesteps("generalized_ddim_quad", 1), (std::vector<std::int64_t>{0}));
}

TEST(GeneralizedDDIM, DrawsNoiseWithoutEtaToo) {
  const auto scheduler = Scheduler::from_json("{}", "generalized_ddim");
  scheduler->set_timesteps(4);
  const auto sample = torch::ones({1, 3, 4, 4});
  expect_error<std::invalid_argument>([&] { scheduler->step(sample, 0, sample); }, {"noise must be set"});
  NoiseGenerator noise({5}), expected({5});
  scheduler->step(sample, 0, sample, {.noise = &noise});
  expected.randn(sample.sizes(), sample.options());
  EXPECT_TRUE(noise.randn({8}, sample.options()).equal(expected.randn({8}, sample.options())));
}

TEST(GeneralizedDDIM, RepeatedTimestepsLeaveTheSample) {
  const auto scheduler = Scheduler::from_json("{}", "generalized_ddim_quad");
  scheduler->set_timesteps(100);  // the last four are timestep 0
  NoiseGenerator noise({5});
  auto sample = torch::full({1, 3, 4, 4}, 0.5);
  const auto after = scheduler->step(torch::ones_like(sample), 96, sample, {.eta = 1, .noise = &noise});
  EXPECT_TRUE(after.allclose(sample, 1e-6, 1e-6));
}

TEST(GeneralizedDDIMErrors, SettingsThatItsCodeDoesNotHave) {
  const auto expect = [](std::string_view config, const std::vector<std::string>& parts) {
    expect_error<std::runtime_error>([&] { Scheduler::from_json(config, "generalized_ddim"); }, parts);
  };
  expect(R"({"skip_type": "cubic"})", {"skip_type", "cubic", R"("uniform", "quad")"});
  expect(R"({"prediction_type": "v_prediction"})", {"prediction_type", "v_prediction", R"("epsilon")"});
  expect(R"({"rescale_betas_zero_snr": true})", {"rescale_betas_zero_snr"});
  expect(R"({"thresholding": true})", {"thresholding"});
}

}  // namespace
}  // namespace deepcache::generalized_ddim_test
