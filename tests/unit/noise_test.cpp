#include "deepcache/noise.hpp"

#include <ATen/CPUGeneratorImpl.h>
#include <gtest/gtest.h>

#include <cstdint>
#include <vector>

#include "expect_error.hpp"
#include "tensor_near.hpp"

namespace deepcache::noise_test {
namespace {

TEST(NoiseGenerator, EqualsLibTorchs) {
  for (const auto dtype : {torch::kFloat32, torch::kFloat64, torch::kFloat16, torch::kBFloat16}) {
    NoiseGenerator noise({42});
    const auto generator = at::make_generator<at::CPUGeneratorImpl>(42);
    for (int draw = 0; draw < 2; ++draw)
      expect_tensor_near(noise.randn({2, 3, 5, 5}, dtype), torch::randn({2, 3, 5, 5}, generator, dtype), 0.0);
  }
}

TEST(NoiseGenerator, SeveralSeedsMakeEachItemAlone) {
  NoiseGenerator several({1, 2, 3});
  NoiseGenerator alone({2});
  for (int draw = 0; draw < 2; ++draw) {
    const auto batch = several.randn({3, 4, 5, 5}, torch::kFloat32);
    EXPECT_EQ(batch.sizes(), (std::vector<std::int64_t>{3, 4, 5, 5}));
    expect_tensor_near(batch.slice(0, 1, 2), alone.randn({1, 4, 5, 5}, torch::kFloat32), 0.0);
  }
}

TEST(NoiseGenerator, DrawsOnTheCpuThenMoves) {
  NoiseGenerator moved({5});
  NoiseGenerator noise({5});
  EXPECT_EQ(moved.randn({2, 8}, torch::dtype(torch::kFloat32).device(torch::kMeta)).device(), torch::kMeta);
  noise.randn({2, 8}, torch::kFloat32);
  expect_tensor_near(moved.randn({2, 8}, torch::kFloat32), noise.randn({2, 8}, torch::kFloat32), 0.0);
}

TEST(NoiseGenerator, RefusesWhatItCannotDraw) {
  expect_error<std::invalid_argument>([] { NoiseGenerator({}); }, {"at least one seed"});
  NoiseGenerator two({1, 2});
  expect_error<std::invalid_argument>([&] { two.randn({3, 4}, torch::kFloat32); }, {"2 seeds", "[3, 4]"});
  expect_error<std::invalid_argument>([&] { two.randn({}, torch::kFloat32); }, {"2 seeds"});
  expect_error<std::invalid_argument>([&] { two.randn({2, 4}, torch::kInt64); }, {"floating point"});
}

TEST(NoiseGenerator, TheFirstOnesShareTheirState) {
  const std::vector<std::uint64_t> seeds{1, 2};
  NoiseGenerator all(seeds);
  NoiseGenerator expected(std::vector<std::uint64_t>{1});
  EXPECT_TRUE(all.first(1).randn({1, 3}, torch::kFloat).equal(expected.randn({1, 3}, torch::kFloat)));
  EXPECT_TRUE(all.randn({2, 3}, torch::kFloat)[0].equal(expected.randn({1, 3}, torch::kFloat)[0]));
  for (const auto count : {0, 3})
    expect_error<std::invalid_argument>([&] { all.first(count); }, {"1 to 2 batch items", std::to_string(count)});
  EXPECT_NO_THROW(expected.first(9));  // one generator draws for any number
}

}  // namespace
}  // namespace deepcache::noise_test
