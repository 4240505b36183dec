// PSNR and SSIM against scikit-image, and the pixels of PNG files against Pillow's, recorded by
// tools/references/images.py.

#include <gtest/gtest.h>

#include "deepcache/image.hpp"
#include "recorded.hpp"
#include "temporary_folder.hpp"
#include "tensor_near.hpp"

namespace deepcache::image_test {
namespace {

TEST(ImageParity, PsnrAndSsim) {
  const auto recorded = Recorded::load(std::filesystem::path(DEEPCACHE_TEST_DATA) / "images.pt").list("cases");
  ASSERT_EQ(recorded.size(), 3U);
  for (const auto& pair : recorded) {
    EXPECT_NEAR(psnr(pair.tensor("actual"), pair.tensor("expected")), pair.number("psnr"), 1e-9);
    EXPECT_NEAR(ssim(pair.tensor("actual"), pair.tensor("expected")), pair.number("ssim"), 1e-9);
  }
}

TEST(ImageParity, PngFilesOfEveryKind) {
  const TemporaryFolder folder;
  const auto recorded = Recorded::load(std::filesystem::path(DEEPCACHE_TEST_DATA) / "images.pt").list("png");
  ASSERT_EQ(recorded.size(), 6U);
  for (const auto& png : recorded) {
    SCOPED_TRACE(png.text("name"));
    const auto bytes = png.tensor("png");
    const auto file = folder.path() / "i.png";
    write_file(file, {static_cast<const char*>(bytes.const_data_ptr()), static_cast<std::size_t>(bytes.numel())});
    expect_tensor_near(load_image(file), png.tensor("image").to(torch::kFloat) / 255, 0);
    expect_tensor_near(load_mask(file), png.tensor("mask").to(torch::kFloat) / 255, 0);
  }
}

}  // namespace
}  // namespace deepcache::image_test
