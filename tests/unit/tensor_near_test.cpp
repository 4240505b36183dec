#include "tensor_near.hpp"

#include <gtest/gtest-spi.h>

#include <cmath>
#include <limits>

namespace deepcache::tensor_near_test {
namespace {

const torch::Tensor& expected() {
  static const auto tensor = torch::arange(6, torch::kFloat32).reshape({2, 3});
  return tensor;
}

TEST(ExpectTensorNear, AcceptsWhatIsNear) {
  expect_tensor_near(expected().clone(), expected(), 0.0);
  expect_tensor_near(expected() + 0.5, expected(), 0.5);
  expect_tensor_near(expected() * 1.25, expected(), 0.0, 0.25);
  const auto infinite = torch::full({1}, std::numeric_limits<double>::infinity());
  expect_tensor_near(infinite, infinite.clone(), 0.0);
  expect_tensor_near(torch::empty({0}), torch::empty({0}), 0.0);
}

TEST(ExpectTensorNear, NamesWhatDiffersFirst) {
  EXPECT_NONFATAL_FAILURE(expect_tensor_near(torch::Tensor(), expected(), 0.0), "undefined");
  EXPECT_NONFATAL_FAILURE(expect_tensor_near(expected().to(torch::kFloat64)[0], expected(), 0.0),
                          "the dtype is double, expected float");
  EXPECT_NONFATAL_FAILURE(expect_tensor_near(expected()[0] + 1, expected(), 0.0), "the shape is [3], expected [2, 3]");
  auto other = expected().clone();
  other[0][2] += 0.25;
  other[1][1] += 0.5;
  EXPECT_NONFATAL_FAILURE(expect_tensor_near(other, expected(), 0.1),
                          "[0, 2] is 2.25, expected 2; 2 of 6 values differ, by up to 0.5");
  EXPECT_NONFATAL_FAILURE(expect_tensor_near(other, expected(), 0.3), "[1, 1] is 4.5, expected 4; 1 of 6");
  const auto nan = torch::full({}, std::nan(""));
  EXPECT_NONFATAL_FAILURE(expect_tensor_near(nan, nan, 1.0), "[] is nan, expected nan");
}

}  // namespace
}  // namespace deepcache::tensor_near_test
