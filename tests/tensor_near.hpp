#pragma once

#include <gtest/gtest.h>
#include <torch/types.h>

#include <cstdint>
#include <sstream>

namespace deepcache {

/// Adds a test failure at the caller's line unless `actual` has the dtype, then the shape, then the values of
/// `expected`: |actual - expected| <= atol + rtol * |expected|. NaN is near nothing. Names the first index that
/// differs.
inline void expect_tensor_near(const torch::Tensor& actual, const torch::Tensor& expected, double atol,
                               double rtol = 0.0, const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
  const auto fail = [&](const std::string& message) { ADD_FAILURE_AT(file, line) << message; };
  if (!actual.defined() || !expected.defined()) return fail("a tensor is undefined");
  if (actual.dtype() != expected.dtype())
    return fail(c10::str("the dtype is ", actual.dtype(), ", expected ", expected.dtype()));
  if (actual.sizes() != expected.sizes())
    return fail(c10::str("the shape is ", actual.sizes(), ", expected ", expected.sizes()));

  const auto got = actual.detach().to(torch::kCPU, torch::kFloat64).contiguous();
  const auto want = expected.detach().to(torch::kCPU, torch::kFloat64).contiguous();
  const auto difference = (got - want).abs();
  // Equality serves infinities, whose difference is NaN.
  const auto near = got.eq(want).logical_or(difference.le(atol + rtol * want.abs()));
  if (near.all().item<bool>()) return;

  const auto wrong = near.logical_not().nonzero();
  const auto first = wrong[0];
  auto got_value = got;
  auto want_value = want;
  std::ostringstream place;
  for (std::int64_t dim = 0; dim < first.size(0); ++dim) {
    const auto index = first[dim].item<std::int64_t>();
    got_value = got_value[index];
    want_value = want_value[index];
    place << (dim == 0 ? "" : ", ") << index;
  }
  std::ostringstream message;
  message.precision(9);
  message << "[" << place.str() << "] is " << got_value.item<double>() << ", expected " << want_value.item<double>()
          << "; " << wrong.size(0) << " of " << got.numel() << " values differ, by up to "
          << difference.max().item<double>() << " (allowed: " << atol << " + " << rtol << " * |expected|)";
  fail(message.str());
}

}  // namespace deepcache
