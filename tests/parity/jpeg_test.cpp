// The pixels of JPEG files, upright, against Pillow's, recorded by tools/references/jpeg.py.

#include <gtest/gtest.h>

#include "deepcache/image.hpp"
#include "recorded.hpp"
#include "temporary_folder.hpp"
#include "tensor_near.hpp"

namespace deepcache::jpeg_test {
namespace {

TEST(ImageParity, JpegFilesOfEveryKind) {
  const TemporaryFolder folder;
  const auto recorded = Recorded::load(std::filesystem::path(DEEPCACHE_TEST_DATA) / "jpeg.pt").list("files");
  int compared = 0;
  for (const auto& jpeg : recorded) {
    if (!jpeg.has("image")) continue;  // refused; a unit test has it
    SCOPED_TRACE(jpeg.text("name"));
    const auto bytes = jpeg.tensor("jpeg");
    const auto file = folder.path() / "i.jpg";
    write_file(file, {static_cast<const char*>(bytes.const_data_ptr()), static_cast<std::size_t>(bytes.numel())});
    expect_tensor_near(load_image(file), jpeg.tensor("image").to(torch::kFloat) / 255, 0);
    expect_tensor_near(load_mask(file), jpeg.tensor("mask").to(torch::kFloat) / 255, 0);
    ++compared;
  }
  EXPECT_EQ(compared, 14);
}

}  // namespace
}  // namespace deepcache::jpeg_test
