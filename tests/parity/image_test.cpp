// PSNR and SSIM against scikit-image, recorded by tools/references/images.py.

#include <gtest/gtest.h>

#include "deepcache/image.hpp"
#include "recorded.hpp"

namespace deepcache {
namespace {

TEST(ImageParity, PsnrAndSsim) {
  const auto recorded = Recorded::load(std::filesystem::path(DEEPCACHE_TEST_DATA) / "images.pt").list("cases");
  ASSERT_EQ(recorded.size(), 3U);
  for (const auto& pair : recorded) {
    EXPECT_NEAR(psnr(pair.tensor("actual"), pair.tensor("expected")), pair.number("psnr"), 1e-9);
    EXPECT_NEAR(ssim(pair.tensor("actual"), pair.tensor("expected")), pair.number("ssim"), 1e-9);
  }
}

}  // namespace
}  // namespace deepcache
