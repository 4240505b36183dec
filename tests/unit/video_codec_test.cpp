// MP4 and WebM files, read back with FFmpeg's own libraries.

#include <gtest/gtest.h>

#include "decoded_video.hpp"
#include "deepcache/video.hpp"
#include "expect_error.hpp"
#include "io/ffmpeg.hpp"
#include "io/files.hpp"
#include "moving_disc.hpp"
#include "temporary_folder.hpp"
#include "tensor_near.hpp"

namespace deepcache::video_codec_test {
namespace {

struct Kind {
  const char* name;
  VideoOptions options;
  const char* codec;
  const char* chroma = "left";
};

// FFmpeg doesn't read where MP4 says that VP9's chroma samples lie.
const Kind kKinds[] = {
    {"v.mp4", {}, "h264"}, {"v.webm", {}, "vp9"}, {"v.MP4", {.codec = VideoCodec::kVp9}, "vp9", "unspecified"}};

TEST(VideoCodec, FilesHoldTheFrames) {
  const TemporaryFolder folder;
  const auto frames = moving_disc(12, 64, 96);
  for (const auto& kind : kKinds) {
    SCOPED_TRACE(fmt::format("{} {}", kind.name, kind.codec));
    testing::internal::CaptureStderr();
    testing::internal::CaptureStdout();
    save_video(frames, folder.path() / kind.name, 7, kind.options);
    EXPECT_EQ(testing::internal::GetCapturedStdout() + testing::internal::GetCapturedStderr(), "");
    const auto video = decode_video(folder.path() / kind.name);
    EXPECT_EQ(video.codec, kind.codec);
    EXPECT_EQ(video.pixel_format, "yuv420p");
    EXPECT_EQ(video.colours, fmt::format("bt709 bt709 bt709 tv {}", kind.chroma));
    EXPECT_DOUBLE_EQ(video.fps, 7);
    EXPECT_NEAR(video.seconds, 12.0 / 7, 1.5e-3);  // WebM counts milliseconds
    ASSERT_EQ(video.frames.sizes(), frames.sizes());
    for (std::size_t i = 0; i < 12; ++i) EXPECT_NEAR(video.times[i], static_cast<double>(i) / 7, 1e-3);
    for (std::int64_t i = 0; i < 12; ++i) EXPECT_GT(psnr(video.frames[i], frames[i]), 40) << i;
  }
}

TEST(VideoCodec, ColoursComeBack) {
  const TemporaryFolder folder;
  const auto colours = torch::tensor({{1.0, 0.0, 0.0},
                                      {0.0, 1.0, 0.0},
                                      {0.0, 0.0, 1.0},
                                      {1.0, 1.0, 0.0},
                                      {0.0, 0.0, 0.0},
                                      {1.0, 1.0, 1.0},
                                      {0.8, 0.5, 0.3}},
                                     torch::kFloat);
  const auto frames = colours.view({7, 3, 1, 1}).expand({7, 3, 32, 32});
  for (const auto& kind : kKinds) {
    SCOPED_TRACE(kind.name);
    save_video(frames, folder.path() / kind.name, 25, kind.options);
    expect_tensor_near(decode_video(folder.path() / kind.name).frames, frames.contiguous(), 3.0 / 255);
  }
}

TEST(VideoCodec, Mp4BeginsWithItsIndex) {
  const TemporaryFolder folder;
  for (const std::int64_t count : {1, 2000}) {
    save_video(torch::rand({count, 3, 16, 16}), folder.path() / "v.mp4", 30);
    const auto bytes = read_file(folder.path() / "v.mp4");
    EXPECT_LT(bytes.find("moov"), bytes.find("mdat"));
    const auto video = decode_video(folder.path() / "v.mp4");
    EXPECT_EQ(video.frames.size(0), count);
    EXPECT_NEAR(video.seconds, static_cast<double>(count) / 30, 1e-3);
  }
}

TEST(VideoCodec, OddSizesGrowByOne) {
  const TemporaryFolder folder;
  const auto frames = moving_disc(3, 33, 47);
  for (const auto& kind : kKinds) {
    SCOPED_TRACE(kind.name);
    save_video(frames, folder.path() / kind.name, 7, kind.options);
    const auto video = decode_video(folder.path() / kind.name);
    ASSERT_EQ(video.frames.sizes(), (torch::IntArrayRef{3, 3, 34, 48}));
    EXPECT_GT(psnr(video.frames.slice(2, 0, 33).slice(3, 0, 47), frames), 35);
    EXPECT_GT(psnr(video.frames.slice(2, 33).slice(3, 0, 47), frames.slice(2, 32)), 35);
    EXPECT_GT(psnr(video.frames.slice(3, 47).slice(2, 0, 33), frames.slice(3, 46)), 35);
    save_video(frames.slice(2, 0, 1).slice(3, 0, 1), folder.path() / kind.name, 7, kind.options);
    EXPECT_EQ(decode_video(folder.path() / kind.name).frames.sizes(), (torch::IntArrayRef{3, 3, 2, 2}));
  }
}

TEST(VideoCodec, EqualFramesGiveEqualBytes) {
  const TemporaryFolder folder;
  const auto frames = moving_disc(9, 48, 64);
  for (const auto& kind : kKinds) {
    save_video(frames, folder.path() / kind.name, 7, kind.options);
    const auto first = read_file(folder.path() / kind.name);
    save_video(frames, folder.path() / kind.name, 7, kind.options);
    EXPECT_EQ(read_file(folder.path() / kind.name), first) << kind.name;
  }
}

TEST(VideoCodec, HalfPrecisionAndValuesOutsideTheRange) {
  const TemporaryFolder folder;
  const auto frames = moving_disc(3, 32, 32);
  const auto loss = [&](const torch::Tensor& saved) {
    save_video(saved, folder.path() / "v.mp4", 7);
    return psnr(decode_video(folder.path() / "v.mp4").frames, frames);
  };
  EXPECT_NEAR(loss(frames.to(torch::kHalf)), loss(frames), 0.5);
  save_video(moving_disc(3, 32, 32) * 3 - 1, folder.path() / "wide.mp4", 7);
  save_video((moving_disc(3, 32, 32) * 3 - 1).clamp(0, 1), folder.path() / "clamped.mp4", 7);
  EXPECT_EQ(read_file(folder.path() / "wide.mp4"), read_file(folder.path() / "clamped.mp4"));
}

TEST(VideoCodec, FrameRates) {
  const TemporaryFolder folder;
  for (const double fps : {0.1, 23.976, 30000 / 1001.0, 60.0, 1000.0}) {
    save_video(torch::rand({3, 3, 16, 16}), folder.path() / "v.mp4", fps);
    const auto video = decode_video(folder.path() / "v.mp4");
    EXPECT_NEAR(video.fps, fps, 1e-3 * fps);
    EXPECT_NEAR(video.seconds, 3 / fps, 1e-3);  // which MP4 counts in milliseconds, rounded up
  }
}

TEST(VideoCodec, MetadataIsKept) {
  const TemporaryFolder folder;
  const PngText metadata = {{"title", "red heart"},
                            {"parameters", "a \u2764\nSteps: 50"},
                            {"deepcache", "{\"a\": 1}"},
                            {"comment", std::string(100'000, 'x')}};
  for (auto kind : kKinds) {
    SCOPED_TRACE(kind.name);
    kind.options.metadata = metadata;
    save_video(moving_disc(2, 16, 16), folder.path() / kind.name, 7, kind.options);
    const auto tags = decode_video(folder.path() / kind.name).tags;
    for (const auto& [keyword, text] : metadata) EXPECT_EQ(tags.at(keyword), text);
  }
}

TEST(VideoCodec, QualityFollowsCrf) {
  const TemporaryFolder folder;
  const auto frames = (moving_disc(5, 64, 64) + 0.05 * torch::rand({5, 3, 64, 64})).clamp(0, 1);
  for (auto kind : kKinds) {
    SCOPED_TRACE(kind.name);
    std::vector<std::uintmax_t> sizes;
    for (const int crf : {5, 20, 51}) {
      kind.options.crf = crf;
      save_video(frames, folder.path() / kind.name, 7, kind.options);
      sizes.push_back(std::filesystem::file_size(folder.path() / kind.name));
    }
    EXPECT_GT(sizes[0], sizes[1]);
    EXPECT_GT(sizes[1], sizes[2]);
  }
}

TEST(VideoCodec, Errors) {
  const TemporaryFolder folder;
  const auto refuse = [&](const char* name, const VideoOptions& options, const std::vector<std::string>& parts) {
    const auto file = folder.path() / name;
    expect_error<std::invalid_argument>([&] { save_video(torch::rand({1, 3, 8, 8}), file, 7, options); }, parts);
    expect_error<std::invalid_argument>([&] { check_video({1, 3, 8, 8}, file, 7, options); }, parts);
  };
  refuse("v.mp4", {.crf = -1}, {"crf must be 0 to 51 for libx264, got -1"});
  refuse("v.mp4", {.crf = 52}, {"0 to 51", "52"});
  refuse("v.webm", {.crf = 64}, {"crf must be 0 to 63 for libvpx-vp9, got 64"});
  refuse("v.webm", {.codec = VideoCodec::kH264}, {"H.264 is for .mp4; .webm holds VP9"});
  expect_error<std::invalid_argument>(
      [&] {
        check_video({1, 3, 8, 16385}, folder.path() / "v.mp4", 7);
      },
      {"1 to 16384 pixels", "8x16385"});
  std::filesystem::create_directory(folder.path() / "d.mp4");
  expect_error<std::runtime_error>(
      [&] {
        check_video({1, 3, 8, 8}, folder.path() / "d.mp4", 7);
      },
      {"d.mp4", "it is a folder", "separator"});
  expect_error<std::runtime_error>([] { check_av(AVERROR(ENOMEM), "open the encoder"); },
                                   {"FFmpeg can't open the encoder: Cannot allocate memory"});
  EXPECT_EQ(check_av(3, "count"), 3);
  expect_error<std::runtime_error>([] { av_own(static_cast<AVFrame*>(nullptr)); }, {"out of memory"});
  EXPECT_FALSE(std::filesystem::exists(folder.path() / "v.mp4"));
}

TEST(VideoCodec, TheLargestSidesAreEncoded) {
  const TemporaryFolder folder;
  for (const auto& kind : kKinds) {
    save_video(torch::full({1, 3, 2, 16384}, 0.5), folder.path() / kind.name, 7, kind.options);
    EXPECT_EQ(decode_video(folder.path() / kind.name).frames.size(3), 16384) << kind.name;
  }
}

}  // namespace
}  // namespace deepcache::video_codec_test
