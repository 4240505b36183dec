#include <gtest/gtest.h>

#include "deepcache/image.hpp"
#include "expect_error.hpp"
#include "io/exif.hpp"
#include "io/files.hpp"
#include "recorded.hpp"
#include "temporary_folder.hpp"

namespace deepcache::jpeg_test {
namespace {

std::string recorded_file(const std::string& name) {
  for (const auto& jpeg : Recorded::load(std::filesystem::path(DEEPCACHE_TEST_DATA) / "jpeg.pt").list("files")) {
    if (jpeg.text("name") != name) continue;
    const auto bytes = jpeg.tensor("jpeg");
    return {static_cast<const char*>(bytes.const_data_ptr()), static_cast<std::size_t>(bytes.numel())};
  }
  throw std::runtime_error("jpeg.pt holds no " + name);
}

class JpegTest : public testing::Test {
 protected:
  void refuse(const std::string& bytes, const std::vector<std::string>& parts) {
    write_file(file_, bytes);
    expect_error<std::runtime_error>([&] { load_image(file_); }, parts);
    expect_error<std::runtime_error>([&] { load_mask(file_); }, parts);
  }

  TemporaryFolder folder_;
  std::filesystem::path file_ = folder_.path() / "photo.png";  // the content decides, not the name
};

TEST_F(JpegTest, FilesThatCannotBeRead) {
  auto bytes = recorded_file("colours 4:2:0");
  refuse("\xFF\xD8", {"photo.png is neither a PNG nor a JPEG image"});
  refuse("\xFF\xD8\xFF", {"photo.png can't be read as a JPEG image: "});
  refuse(bytes.substr(0, 200), {"photo.png can't be read as a JPEG image: "});
  refuse(bytes.substr(0, bytes.size() - 20), {"photo.png can't be read as a JPEG image: Premature end of JPEG file"});
  refuse(recorded_file("CMYK"),
         {"photo.png can't be read as a JPEG image", "4 colour components", "CMYK", "grey, YCbCr or RGB"});
  const auto frame = bytes.find("\xFF\xC0");
  bytes.replace(frame + 5, 4, std::string("\x40\x00\x40\x00", 4));  // height and width
  refuse(bytes, {"photo.png has 16384x16384 pixels; the most that is read are 67108864"});
}

TEST_F(JpegTest, DamageIsAnErrorOrAnImageOfSomeSize) {
  for (const char* name : {"colours 4:2:0", "progressive", "orientation 6"}) {
    const auto good = recorded_file(name);
    int read = 0, refused = 0;
    for (std::size_t i = 0; i < good.size(); ++i) {
      auto bytes = good;
      bytes[i] = static_cast<char>(bytes[i] ^ (i % 2 == 0 ? 0xFF : 0x10));
      write_file(file_, bytes);
      try {
        const auto image = load_image(file_);
        EXPECT_EQ(image.size(0), 3);
        EXPECT_LE(image.max().item<float>(), 1);
        ++read;
      } catch (const std::runtime_error& error) {
        EXPECT_NE(std::string(error.what()).find("photo.png"), std::string::npos);
        ++refused;
      }
    }
    EXPECT_GT(read, 0) << name;
    EXPECT_GT(refused, 0) << name;
  }
}

TEST(Exif, OrientationOfBothByteOrders) {
  const auto little = [](char value) {
    std::string bytes("II*\0\x08\0\0\0\x02\0\x00\x01\x03\0\x01\0\0\0\x07\0\0\0\x12\x01\x03\0\x01\0\0\0\0\0\0\0\0\0\0\0",
                      38);
    bytes[30] = value;
    return bytes;
  };
  const auto big = [](char value) {
    std::string bytes("MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\0\0\0\0\0\0\0", 26);
    bytes[19] = value;
    return bytes;
  };
  for (int value = 1; value <= 8; ++value) {
    EXPECT_EQ(exif_orientation(little(static_cast<char>(value))), value);
    EXPECT_EQ(exif_orientation(big(static_cast<char>(value))), value);
  }
  EXPECT_EQ(exif_orientation(big(0)), 1);
  EXPECT_EQ(exif_orientation(big(9)), 1);
}

TEST(Exif, DamagedDataSayNothing) {
  EXPECT_EQ(exif_orientation(""), 1);
  EXPECT_EQ(exif_orientation("JFIF, not Exif"), 1);
  EXPECT_EQ(exif_orientation(std::string("MM\0*\xFF\xFF\xFF\xFF\0\x01", 10)), 1);  // a directory outside
  const std::string good("MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06", 20);
  EXPECT_EQ(exif_orientation(good), 6);
  for (std::size_t size = 0; size < good.size(); ++size) EXPECT_EQ(exif_orientation(good.substr(0, size)), 1) << size;
  auto wrong_type = good;
  wrong_type[13] = '\x04';
  EXPECT_EQ(exif_orientation(wrong_type), 1);
  auto many = good;
  many[8] = many[9] = '\xFF';  // more entries than there are
  many[11] = 0;
  EXPECT_EQ(exif_orientation(many), 1);
}

}  // namespace
}  // namespace deepcache::jpeg_test
