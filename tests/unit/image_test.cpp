#include "deepcache/image.hpp"

#include <gtest/gtest.h>
#include <png.h>
#include <zlib.h>

#include <cmath>

#include "deepcache/run_report.hpp"
#include "expect_error.hpp"
#include "io/files.hpp"
#include "temporary_folder.hpp"
#include "tensor_near.hpp"

namespace deepcache::image_test {
namespace {

/// The pixels of a PNG file, [3, H, W] in 0..255, as libpng's own reader gives them.
torch::Tensor read_png(const std::filesystem::path& file) {
  png_image image{};
  image.version = PNG_IMAGE_VERSION;
  EXPECT_NE(png_image_begin_read_from_file(&image, file.string().c_str()), 0);
  image.format = PNG_FORMAT_RGB;
  auto pixels =
      torch::empty({static_cast<std::int64_t>(image.height), static_cast<std::int64_t>(image.width), 3}, torch::kUInt8);
  EXPECT_NE(png_image_finish_read(&image, nullptr, pixels.data_ptr(), 0, nullptr), 0);
  return pixels.permute({2, 0, 1});
}

TEST(Png, ReadsWhatItWrote) {
  const TemporaryFolder folder;
  const auto image = torch::arange(60, torch::kFloat).reshape({3, 4, 5}) / 255;
  save_png(image, folder.path() / "i.png");
  expect_tensor_near(load_image(folder.path() / "i.png"), image, 0);
}

TEST(Png, FilesThatCannotBeRead) {
  const TemporaryFolder folder;
  const auto file = folder.path() / "i.png";
  const auto refuse = [&](const std::vector<std::string>& parts) {
    expect_error<std::runtime_error>([&] { load_image(file); }, parts);
    expect_error<std::runtime_error>([&] { load_mask(file); }, parts);
  };
  refuse({"i.png"});
  write_file(file, "");
  refuse({"i.png is neither a PNG nor a JPEG image"});
  write_file(file, "GIF89a and more");
  refuse({"i.png is neither a PNG nor a JPEG image"});
  save_png(torch::rand({3, 64, 64}), file);
  const auto bytes = read_file(file);
  write_file(file, bytes.substr(0, bytes.size() / 2));
  refuse({"i.png can't be read as a PNG image"});
  auto huge = bytes;  // the width, after the signature and the first chunk's head; then the chunk's checksum
  huge.replace(16, 8, std::string("\x00\x00\x40\x00\x00\x00\x40\x00", 8));
  const auto crc = crc32(0, reinterpret_cast<const Bytef*>(huge.data()) + 12, 17);
  for (int i = 0; i < 4; ++i) huge[29 + static_cast<std::size_t>(i)] = static_cast<char>(crc >> (24 - 8 * i));
  write_file(file, huge);
  refuse({"i.png has 16384x16384 pixels; the most that is read are 67108864"});
}

TEST(ResizeImage, KeepsWhatIsEvenAndStaysInRange) {
  expect_tensor_near(resize_image(torch::full({3, 40, 30}, 0.25), 16, 8), torch::full({3, 16, 8}, 0.25), 1e-6);
  const auto edges = resize_image(torch::eye(8).unsqueeze(0), 32, 32);  // bicubic overshoots
  EXPECT_GE(edges.min().item<float>(), 0);
  EXPECT_LE(edges.max().item<float>(), 1);
  const auto image = torch::rand({3, 4, 5});
  EXPECT_TRUE(resize_image(image, 4, 5).equal(image));
  expect_error<std::invalid_argument>([&] { resize_image(image, 0, 5); }, {"0x5"});
  expect_error<std::invalid_argument>([&] { resize_image(image[0], 4, 5); }, {"[C, H, W]", "[4, 5]"});
  expect_error<std::invalid_argument>([&] { resize_image(image.to(torch::kByte), 4, 5); }, {"Byte"});
}

TEST(Png, PixelsAreRoundedAndClamped) {
  const TemporaryFolder folder;
  auto image = torch::arange(60, torch::kFloat).reshape({3, 4, 5}) / 59;
  image[0][0][0] = -1;
  image[0][0][1] = 2;
  image[0][0][2] = 0.5 / 255;  // halves go to even, as NumPy rounds
  image[0][0][3] = 1.5 / 255;
  save_png(image, folder.path() / "i.png");
  auto expected = (image.clamp(0, 1) * 255).round();
  const auto pixels = read_png(folder.path() / "i.png");
  expect_tensor_near(pixels, expected.to(torch::kUInt8), 0);
  EXPECT_EQ(pixels[0][0][2].item<int>(), 0);
  EXPECT_EQ(pixels[0][0][3].item<int>(), 2);
}

TEST(Png, KeepsTexts) {
  const TemporaryFolder folder;
  save_png(torch::zeros({3, 1, 1}), folder.path() / "i.png",
           {{"parameters", "a red heart\nSteps: 50"}, {"utf8", "\u2764 ok"}});
  const auto bytes = read_file(folder.path() / "i.png");
  EXPECT_NE(bytes.find(std::string("tEXtparameters\0a red heart\nSteps: 50", 36)), std::string::npos);
  EXPECT_NE(bytes.find("iTXtutf8"), std::string::npos);
  EXPECT_NE(bytes.find("\u2764 ok"), std::string::npos);
}

TEST(Png, Errors) {
  const TemporaryFolder folder;
  expect_error<std::invalid_argument>(
      [&] {
        save_png(torch::ones({1, 4, 4}), folder.path() / "i.png");
      },
      {"must be [3, H, W], got [1, 4, 4]"});
  expect_error<std::invalid_argument>([&] { save_png(torch::ones({4, 4}), folder.path() / "i.png"); }, {"got [4, 4]"});
  expect_error<std::runtime_error>(
      [&] {
        save_png(torch::ones({3, 4, 4}), folder.path() / "absent/i.png");
      },
      {"can't write"});
  expect_error<std::runtime_error>(
      [&] {
        save_png(torch::ones({3, 4, 4}), folder.path() / "i.png", {{"", "empty keyword"}});
      },
      {"can't encode"});
  EXPECT_TRUE(std::filesystem::is_empty(folder.path()));
}

TEST(ContactSheet, ImagesStandUnderTheirTitles) {
  const auto red = torch::tensor({1.0F, 0.0F, 0.0F}).view({3, 1, 1}).expand({3, 8, 30});
  const auto sheet = contact_sheet({"full", "cached"}, {{"a", {red, red * 0.5}}, {"b", {red, red}}}, 2);
  EXPECT_EQ(sheet.sizes(), (torch::IntArrayRef{3, 12 + 28 + 2 * (28 + 16 + 12), 12 + 2 * (60 + 12)}));
  const auto corner = [&](std::int64_t y, std::int64_t x) { return sheet.slice(1, y, y + 16).slice(2, x, x + 60); };
  EXPECT_TRUE(corner(68, 12).eq(red[0][0][0] * torch::tensor({1, 0, 0}).view({3, 1, 1})).all().item<bool>());
  EXPECT_EQ(corner(68, 84)[0].mean().item<float>(), 0.5F);
  EXPECT_LT(sheet.slice(1, 12, 40).slice(2, 12, 72).min().item<float>(), 0.5F);  // "full" is written there
  EXPECT_LT(sheet.slice(1, 40, 68).slice(2, 12, 72).min().item<float>(), 0.5F);  // and the caption here
}

TEST(ContactSheet, TitlesMayHaveLines) {
  const auto image = torch::zeros({3, 8, 40});
  const auto one = contact_sheet({"a", "b"}, {{"", {image, image}}});
  const auto two = contact_sheet({"a", "b\nc"}, {{"", {image, image}}});
  const auto line = two.size(1) - one.size(1);
  EXPECT_GT(line, 10);
  EXPECT_TRUE(torch::equal(two.slice(1, line), contact_sheet({"", "c"}, {{"", {image, image}}})));
}

TEST(ContactSheet, RowsBesideEachOther) {
  std::vector<ContactRow> rows;
  for (int i = 0; i < 5; ++i) rows.push_back({"", {torch::full({3, 8, 30}, i / 10.0F)}});
  const auto sheet = contact_sheet({"t"}, rows, 1, 3);
  EXPECT_EQ(sheet.sizes(), (torch::IntArrayRef{3, 12 + 28 + 2 * (28 + 8 + 12), 3 * (12 + 30 + 12)}));
  for (int i = 0; i < 5; ++i) EXPECT_EQ(sheet[0][40 + 28 + i / 3 * 48][12 + i % 3 * 54].item<float>(), i / 10.0F) << i;
}

TEST(ContactSheet, LongAndForeignCaptionsFit) {
  const auto image = torch::ones({3, 8, 8});
  const std::string caption(500, 'x');
  const auto sheet = contact_sheet({"a title longer than its column"}, {{caption + "\u2764", {image}}});
  EXPECT_EQ(sheet.size(2), 12 + 20);
  EXPECT_EQ(sheet.slice(2, 20).min().item<float>(), 1.0F);  // nothing leaves its column
}

TEST(ContactSheet, Errors) {
  const auto image = torch::ones({3, 8, 8});
  expect_error<std::invalid_argument>([&] { contact_sheet({}, {{"a", {}}}); }, {"0 titles"});
  expect_error<std::invalid_argument>([&] { contact_sheet({"t"}, {}); }, {"0 rows"});
  expect_error<std::invalid_argument>([&] { contact_sheet({"t"}, {{"a", {image}}}, 0); }, {"scale 0"});
  expect_error<std::invalid_argument>([&] { contact_sheet({"t"}, {{"a", {image}}}, 1, 0); }, {"0 across"});
  expect_error<std::invalid_argument>(
      [&] {
        contact_sheet({"t"}, {{"a", {image, image}}});
      },
      {"\"a\" has 2 images for 1 titles"});
  expect_error<std::invalid_argument>(
      [&] {
        contact_sheet({"t"}, {{"a", {image}}, {"b", {torch::ones({3, 9, 8})}}});
      },
      {"one size, got [3, 8, 8] and [3, 9, 8]"});
}

TEST(ImageMetrics, EqualAndErrors) {
  const auto image = torch::rand({2, 3, 16, 16});
  EXPECT_TRUE(std::isinf(psnr(image, image)));
  EXPECT_DOUBLE_EQ(ssim(image, image), 1.0);
  EXPECT_NEAR(psnr(torch::zeros({4}), torch::full({4}, 0.1)), 20, 1e-6);
  expect_error<std::invalid_argument>([&] { psnr(image, image[0]); },
                                      {"one shape, got [2, 3, 16, 16] and [3, 16, 16]"});
  expect_error<std::invalid_argument>(
      [&] {
        ssim(torch::ones({3, 10, 16}), torch::ones({3, 10, 16}));
      },
      {"11x11 pixels or more, got [3, 10, 16]"});
}

TEST(RunReports, TimestepsMayBeUnknown) {
  RunReport report{.request = R"({"model": "m"})", .cache = {.cache_interval = 2}};
  report.stats.steps.resize(2);
  report.stats.steps[0].full = true;
  EXPECT_NE(report.json().find("\"mode\": \"full\""), std::string::npos);
  EXPECT_EQ(report.json().find("timestep"), std::string::npos);
  report.timesteps = {981, 961};
  EXPECT_NE(report.json().find("\"timestep\": 961.0"), std::string::npos);
}

TEST(RunReports, AnInfinitePsnrIsValidJson) {
  RunReport report{.request = R"({"model": "m"})"};
  report.compare = {
      .milliseconds_uncached = 2, .speedup = 1, .psnr_db = psnr(torch::ones(1), torch::ones(1)), .ssim = 1};
  EXPECT_NE(report.json().find("\"psnr_db\": null"), std::string::npos);
  EXPECT_EQ(report.png_text(0)[0].second.find("DeepCache"), std::string::npos);  // interval 1 caches nothing
}

}  // namespace
}  // namespace deepcache::image_test
