#include "deepcache/scheduler.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>

#include "deepcache/noise.hpp"
#include "recorded.hpp"
#include "schedulers/noise_schedule.hpp"
#include "tensor_near.hpp"

// What tools/references/schedulers.py recorded from diffusers.
namespace deepcache::scheduler_test {
namespace {

// The operations are those of diffusers in its order, so with the same LibTorch they agree bit for bit on processors
// with AVX2 or AVX-512. The tolerances leave room for others, where LibTorch rounds linspace, logarithms and cosines
// differently.

/// Whole trajectories in float32.
constexpr double kTolerance = 1e-5;

/// Whole trajectories in float16 and bfloat16: each operation rounds float32 arithmetic to the type, which all
/// processors do alike, and a tolerance of the type's own units (1e-3, 8e-3) would hide an operation done in another
/// dtype.
constexpr double kHalfTolerance = 0.0;

/// Cumulative products, up to four units of float32.
constexpr double kAlphaTolerance = 5e-7;

/// Relative, of what goes through a float32 logarithm of NumPy's: timesteps of Karras's sigmas, log-linear sigmas. With
/// AVX2 or AVX-512 NumPy has its own, which is up to four units off. (Other float timesteps are compared bit for bit,
/// in TimestepsOfEveryNumberOfSteps.)
constexpr double kLogTolerance = 5e-7;

std::filesystem::path recordings() {
  return std::filesystem::path(DEEPCACHE_TEST_DATA) / "schedulers";
}

/// What belongs to no one scheduler.
const Recorded& shared() {
  static const auto file = Recorded::load(recordings() / "shared.pt");
  return file;
}

/// What was recorded of one scheduler: the test's parameter is its file's name.
class SchedulerParity : public testing::TestWithParam<std::string> {
 protected:
  static Recorded recorded() { return Recorded::load(recordings() / (GetParam() + ".pt")); }
};

std::vector<std::string> recorded_schedulers() {
  std::vector<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(recordings()))
    if (entry.path().extension() == ".pt" && entry.path().stem() != "shared")
      names.push_back(entry.path().stem().string());
  return names;
}

INSTANTIATE_TEST_SUITE_P(Recorded, SchedulerParity, testing::ValuesIn(recorded_schedulers()),
                         [](const auto& test) { return test.param; });

/// Relative to a sample's own scale, which is that of the noise at first where it isn't scaled with the image.
double tolerance(const torch::Tensor& expected) {
  if (expected.scalar_type() != torch::kFloat32) return kHalfTolerance;
  return kTolerance * std::max(1.0, expected.std().item<double>());
}

/// Takes the UNet's place, in the recording too.
torch::Tensor stand_in(const torch::Tensor& sample, double timestep) {
  return sample * 0.95 - sample * 0.15 / (sample * sample + 1) + 0.1 * timestep / 1000;
}

/// The same of a UNet that has learned the variance too.
torch::Tensor stand_in_with_variance(const torch::Tensor& sample, double timestep) {
  return torch::cat({stand_in(sample, timestep), (sample * sample + 0.4) / (sample * sample + 4)}, 1);
}

std::vector<std::uint64_t> to_seeds(const std::vector<std::int64_t>& numbers) {
  return {numbers.begin(), numbers.end()};
}

void expect_trajectory(const Recorded& trajectory) {
  const auto scheduler = Scheduler::from_json(trajectory.text("config"), trajectory.text("class"));
  scheduler->set_timesteps(trajectory.integer("steps"));
  const auto timesteps = trajectory.tensor("timesteps");
  expect_tensor_near(scheduler->timesteps(), timesteps, 0.0, timesteps.is_floating_point() ? kLogTolerance : 0.0);
  const double init_noise_sigma = trajectory.number("init_noise_sigma");
  EXPECT_NEAR(scheduler->init_noise_sigma(), init_noise_sigma, kLogTolerance * init_noise_sigma);

  StepOptions options;
  options.eta = trajectory.number("eta");
  options.use_clipped_model_output = trajectory.boolean("use_clipped_model_output");
  options.s_churn = trajectory.number("s_churn");
  options.s_tmin = trajectory.number("s_tmin");
  options.s_tmax = trajectory.number("s_tmax");
  options.s_noise = trajectory.number("s_noise");
  std::optional<NoiseGenerator> noise;
  if (const auto seeds = trajectory.integers("seeds"); !seeds.empty()) options.noise = &noise.emplace(to_seeds(seeds));

  const auto expected = trajectory.tensor("samples");
  const auto kept = trajectory.integers("recorded");
  auto sample = shared().tensor("initial").to(expected.scalar_type()) * scheduler->init_noise_sigma();
  const bool learned = trajectory.text("config").find("\"learned") != std::string::npos;
  const auto model = learned ? stand_in_with_variance : stand_in;
  std::int64_t compared = 0;
  for (auto i = trajectory.integer("first"); i < scheduler->timesteps().size(0); ++i) {
    const auto output = model(scheduler->scale_model_input(sample, i), scheduler->timesteps()[i].item<double>());
    sample = scheduler->step(output, i, sample, options);
    if (std::ranges::find(kept, i) == kept.end()) continue;
    SCOPED_TRACE(c10::str("after step ", i));
    expect_tensor_near(sample, expected[compared++], tolerance(expected));
    if (testing::Test::HasFailure()) return;
  }
  EXPECT_EQ(compared, expected.size(0));
}

TEST_P(SchedulerParity, Trajectories) {
  const auto trajectories = recorded().list("trajectories");
  ASSERT_GE(trajectories.size(), 10U);
  for (const auto& trajectory : trajectories) {
    SCOPED_TRACE(trajectory.text("name"));
    expect_trajectory(trajectory);
    if (HasFailure()) return;
  }
}

/// The hash of tools/references/schedulers.py.
std::int64_t timesteps_hash(const torch::Tensor& timesteps) {
  const bool whole = timesteps.scalar_type() == torch::kInt64;
  const auto numbers = whole ? timesteps : timesteps.view(torch::kInt32).to(torch::kInt64);
  const auto* values = numbers.const_data_ptr<std::int64_t>();
  auto hash = static_cast<std::uint64_t>(numbers.numel());
  for (std::int64_t i = 0; i < numbers.numel(); ++i) hash = hash * 1000003 + static_cast<std::uint64_t>(values[i]);
  return static_cast<std::int64_t>(hash % (1ULL << 63));
}

TEST_P(SchedulerParity, TimestepsOfEveryNumberOfSteps) {
  for (const auto& timesteps : recorded().list("timesteps")) {
    SCOPED_TRACE(timesteps.text("class") + " " + timesteps.text("config"));
    const auto scheduler = Scheduler::from_json(timesteps.text("config"), timesteps.text("class"));
    const auto hashes = timesteps.tensor("hashes");
    ASSERT_EQ(hashes.size(0), scheduler->num_train_timesteps());
    for (std::int64_t steps = 1; steps <= hashes.size(0); ++steps) {
      SCOPED_TRACE(steps);
      const auto expected = hashes[steps - 1].item<std::int64_t>();
      if (expected == 0) {
        EXPECT_THROW(scheduler->set_timesteps(steps), std::invalid_argument);
        continue;
      }
      scheduler->set_timesteps(steps);
      ASSERT_EQ(timesteps_hash(scheduler->timesteps()), expected) << scheduler->timesteps();
    }
  }
}

TEST(SchedulerSharedParity, AlphasCumprod) {
  for (const auto& alphas : shared().list("alphas_cumprod")) {
    SCOPED_TRACE(alphas.text("config"));
    const auto config = nlohmann::json::parse(alphas.text("config"));
    auto options = read_noise_schedule(ConfigReader(config));
    options.rescale_betas_zero_snr = config.value("rescale_betas_zero_snr", false);
    expect_tensor_near(make_alphas_cumprod(options), alphas.tensor("alphas_cumprod"), kAlphaTolerance);
  }
}

/// Half types may be one unit off, for their draws go through a logarithm and a cosine.
TEST(SchedulerSharedParity, Noise) {
  for (const auto& noise : shared().list("noise")) {
    NoiseGenerator generator(to_seeds(noise.integers("seeds")));
    const auto draws = noise.tensor("draws");
    SCOPED_TRACE(c10::str(draws.dtype(), " ", draws.sizes(), " of ", noise.integers("seeds")));
    const double unit = draws.scalar_type() == torch::kBFloat16  ? 0x1p-7
                        : draws.scalar_type() == torch::kFloat16 ? 0x1p-10
                                                                 : 0.0;
    for (std::int64_t i = 0; i < draws.size(0); ++i)
      expect_tensor_near(generator.randn(draws[i].sizes(), draws.options()), draws[i], kTolerance, unit);
  }
}

TEST_P(SchedulerParity, AddNoise) {
  for (const auto& record : recorded().list("add_noise")) {
    const auto expected = record.tensor("noised");
    SCOPED_TRACE(c10::str(record.text("class"), " ", expected.dtype(), " ", record.tensor("timesteps")));
    const auto scheduler = Scheduler::from_json(record.text("config"), record.text("class"));
    if (record.integer("steps") > 0) scheduler->set_timesteps(record.integer("steps"));
    const auto original = shared().tensor("initial").to(expected.scalar_type());
    expect_tensor_near(scheduler->add_noise(original, record.tensor("noise"), record.tensor("timesteps")), expected,
                       tolerance(expected));
  }
}

}  // namespace
}  // namespace deepcache::scheduler_test
