#include "deepcache/video.hpp"

#include <gtest/gtest.h>
#include <png.h>

#include <algorithm>
#include <limits>

#include "expect_error.hpp"
#include "io/files.hpp"
#include "io/video_format.hpp"
#include "moving_disc.hpp"
#include "temporary_folder.hpp"
#include "tensor_near.hpp"

namespace deepcache::video_test {
namespace {

namespace fs = std::filesystem;

std::vector<std::string> names_in(const fs::path& folder) {
  std::vector<std::string> names;
  for (const auto& file : fs::directory_iterator(folder)) names.push_back(file.path().filename().string());
  std::ranges::sort(names);
  return names;
}

torch::Tensor as_bytes(const torch::Tensor& image) {
  return (image * 255).round() / 255;
}

TEST(Video, NamesSayTheFormat) {
  for (const auto& [name, format] : std::vector<std::pair<const char*, VideoFormat>>{
           {"a/b.mp4", VideoFormat::kMp4},
           {"b.MP4", VideoFormat::kMp4},
           {"b.webm", VideoFormat::kWebm},
           {"b.png", VideoFormat::kAnimatedPng},
           {"b.apng", VideoFormat::kAnimatedPng},
           {"frames", VideoFormat::kFrameFolder},
           {"frames/", VideoFormat::kFrameFolder},
           {"v1.mp4/", VideoFormat::kFrameFolder},
           {"v1.0/", VideoFormat::kFrameFolder},
           {".", VideoFormat::kFrameFolder},
       })
    EXPECT_EQ(video_format(name), format) << name;
  for (const char* name : {"b.avi", "b.mp", "v1.0", ""})
    expect_error<std::invalid_argument>([&] { video_format(name); }, {".mp4, .webm, .png or .apng, or a folder", name});
}

TEST(Video, FrameRatesAreFractions) {
  for (const auto& [fps, numerator, denominator] :
       std::vector<std::tuple<double, int, int>>{{7, 7, 1},
                                                 {12.5, 25, 2},
                                                 {0.1, 1, 10},
                                                 {29.97, 2997, 100},
                                                 {30000 / 1001.0, 30000, 1001},
                                                 {24000 / 1001.0, 24000, 1001},
                                                 {1000, 1000, 1},
                                                 {1.0 / 3, 1, 3}}) {
    const auto rate = nearest_frame_rate(fps);
    EXPECT_EQ(rate.numerator, numerator);
    EXPECT_EQ(rate.denominator, denominator);
  }
  for (int i = 0; i < 1000; ++i) {
    const auto fps = 0.1 + (i + 0.123456789) * 0.9998765;
    const auto rate = nearest_frame_rate(fps);
    EXPECT_NEAR(static_cast<double>(rate.numerator) / rate.denominator, fps, 1e-4 * fps);
  }
}

TEST(Video, RequestsThatAreRefused) {
  const TemporaryFolder folder;
  const auto file = folder.path() / "v.png";
  const auto frames = torch::rand({2, 3, 8, 8});
  const auto refuse = [&](const torch::Tensor& wrong, double fps, const VideoOptions& options,
                          const std::vector<std::string>& parts) {
    for (const auto& name : {folder.path() / "v.png", folder.path() / "v", folder.path() / "v.mp4"})
      expect_error<std::invalid_argument>([&] { save_video(wrong, name, fps, options); }, parts);
  };
  refuse(frames[0], 7, {}, {"must be [F, 3, H, W], got [3, 8, 8]"});
  refuse(frames.slice(1, 0, 1), 7, {}, {"got [2, 1, 8, 8]"});
  refuse(frames.slice(0, 0, 0), 7, {}, {"1 frame or more, got [0, 3, 8, 8]"});
  refuse(frames.slice(2, 0, 0), 7, {}, {"1 to ", "got 0x8"});
  refuse(frames.to(torch::kByte), 7, {}, {"floating-point values in [0, 1], got Byte"});
  for (const double fps :
       {0.0, -1.0, 0.09, 1001.0, std::numeric_limits<double>::infinity(), std::numeric_limits<double>::quiet_NaN()})
    refuse(frames, fps, {}, {"fps must be 0.1 to 1000, got"});
  refuse(frames, 7, {.metadata = {{"", "text"}}}, {"1 to 79 bytes, got \"\""});
  refuse(frames, 7, {.metadata = {{std::string(80, 'k'), "text"}}}, {"1 to 79 bytes, got \"kkk"});
  refuse(frames, 7, {.metadata = {{"k", std::string("a\0b", 3)}}}, {"zero bytes", "\"k\""});
  const auto refuse_png = [&](const VideoOptions& options) {
    expect_error<std::invalid_argument>([&] { save_video(frames, file, 7, options); },
                                        {"codec and crf are for .mp4 and .webm", "v.png"});
  };
  refuse_png({.crf = 18});
  refuse_png({.codec = VideoCodec::kVp9});
  expect_error<std::invalid_argument>([&] { check_video({1, 3, 2, 1'000'001}, file, 7); }, {"1 to 1000000 pixels"});
  expect_error<std::invalid_argument>([&] { save_video(frames, folder.path() / "v.gif", 7); }, {"v.gif"});
  EXPECT_TRUE(fs::is_empty(folder.path()));
}

TEST(Video, PlacesThatCannotBeWritten) {
  const TemporaryFolder folder;
  const auto frames = torch::rand({1, 3, 8, 8});
  write_file(folder.path() / "file", "x");
  fs::create_directory(folder.path() / "d.png");
  for (const auto& [name, part] : std::vector<std::pair<const char*, const char*>>{
           {"absent/v.png", "there is no folder"},
           {"absent/frames/", "there is no folder"},
           {"file/v.png", "there is no folder"},
           {"file/frames", "there is no folder"},
           {"file", "it is no folder"},
           {"d.png", "it is a folder; for frames in it, end the name with a separator"},
       }) {
    SCOPED_TRACE(name);
    expect_error<std::runtime_error>([&] { save_video(frames, folder.path() / name, 7); }, {"can't write", name, part});
    expect_error<std::runtime_error>([&] { check_video({1, 3, 8, 8}, folder.path() / name, 7); }, {part});
  }
  EXPECT_EQ(names_in(folder.path()), (std::vector<std::string>{"d.png", "file"}));
  if (!fs::exists("/proc/self")) GTEST_SKIP() << "no /proc here, in which nobody can make files";
  expect_error<std::runtime_error>([&] { save_video(frames, "/proc/v.png", 7); }, {"can't write /proc/v.png"});
  expect_error<std::runtime_error>([&] { save_video(frames, "/proc/frames", 7); }, {"can't write /proc/frames"});
}

TEST(AnimatedPng, ReadsAsAPngOfTheFirstFrame) {
  const TemporaryFolder folder;
  const auto frames = moving_disc(4, 20, 30);
  for (const char* name : {"v.png", "v.apng"}) {
    save_video(frames, folder.path() / name, 12.5);
    expect_tensor_near(load_image(folder.path() / name), as_bytes(frames[0]), 1e-6);
  }
  EXPECT_EQ(read_file(folder.path() / "v.png"), read_file(folder.path() / "v.apng"));
  EXPECT_EQ(names_in(folder.path()), (std::vector<std::string>{"v.apng", "v.png"}));
}

TEST(AnimatedPng, KeepsTexts) {
  const TemporaryFolder folder;
  save_video(moving_disc(3, 4, 4), folder.path() / "v.png", 7, {.metadata = {{"parameters", "a red heart"}}});
  const auto bytes = read_file(folder.path() / "v.png");
  EXPECT_NE(bytes.find(std::string("tEXtparameters\0a red heart", 26)), std::string::npos);
  EXPECT_EQ(bytes.find("tEXt"), bytes.rfind("tEXt"));
}

TEST(FrameFolder, NewFolder) {
  const TemporaryFolder folder;
  const auto frames = moving_disc(11, 8, 8);
  for (const char* name : {"a", "b/", "v1.0/"}) {
    save_video(frames, folder.path() / name, 7, {.metadata = {{"parameters", "a red heart"}}});
    const auto names = names_in(folder.path() / name);
    ASSERT_EQ(names.size(), 11U);
    EXPECT_EQ(names.front(), "0001.png");
    EXPECT_EQ(names.back(), "0011.png");
    for (std::int64_t i = 0; i < 11; ++i)
      expect_tensor_near(load_image(folder.path() / name / names[static_cast<std::size_t>(i)]), as_bytes(frames[i]),
                         1e-6);
    EXPECT_NE(read_file(folder.path() / name / "0001.png").find("a red heart"), std::string::npos);
  }
  EXPECT_EQ(names_in(folder.path()), (std::vector<std::string>{"a", "b", "v1.0"}));
}

TEST(FrameFolder, EarlierFramesAreReplaced) {
  const TemporaryFolder folder;
  save_video(torch::zeros({5, 3, 8, 8}), folder.path(), 7);
  save_video(torch::ones({2, 3, 8, 8}), folder.path(), 7);
  EXPECT_EQ(names_in(folder.path()), (std::vector<std::string>{"0001.png", "0002.png"}));
  EXPECT_EQ(load_image(folder.path() / "0002.png").min().item<float>(), 1);
}

TEST(FrameFolder, OtherFilesAreNotTouched) {
  const TemporaryFolder folder;
  for (const char* name : {"notes.txt", "1.png", "000a.png", "0001.jpg"}) {
    write_file(folder.path() / name, "mine");
    expect_error<std::runtime_error>(
        [&] {
          save_video(torch::ones({2, 3, 8, 8}), folder.path(), 7);
        },
        {"nothing but frames of an earlier video, it holds", name});
    EXPECT_EQ(names_in(folder.path()), (std::vector<std::string>{name}));
    fs::remove(folder.path() / name);
  }
}

TEST(FrameFolder, FailureLeavesNothing) {
  const TemporaryFolder folder;
  const auto broken = torch::ones({2, 3, 8, 8});
  fs::create_directories(folder.path() / "frames" / "0003.png" / "child");  // named as a frame, but can't be removed
  expect_error<std::runtime_error>([&] { save_video(broken, folder.path() / "frames", 7); }, {"can't write", "frames"});
  EXPECT_EQ(names_in(folder.path() / "frames"), (std::vector<std::string>{"0003.png"}));
}

}  // namespace
}  // namespace deepcache::video_test
