// Videos of a library that was built without FFmpeg: no_ffmpeg.cpp is linked here in place of encode_video.cpp.

#include <gtest/gtest.h>

#include "deepcache/video.hpp"
#include "expect_error.hpp"
#include "moving_disc.hpp"
#include "temporary_folder.hpp"

namespace deepcache {
namespace {

TEST(NoFfmpeg, SaysHowToBuildTheLibraryAndWhatWorks) {
  const TemporaryFolder folder;
  const auto frames = moving_disc(3, 8, 8);
  for (const char* name : {"v.mp4", "v.webm"}) {
    const std::vector<std::string> parts{"built without FFmpeg", "-DDEEPCACHE_FFMPEG=ON", "libavcodec, libavformat",
                                         ".png, .apng and folders of frames work"};
    expect_error<std::runtime_error>([&] { save_video(frames, folder.path() / name, 7); }, parts);
    expect_error<std::runtime_error>([&] { check_video(frames.sizes(), folder.path() / name, 7); }, parts);
  }
  EXPECT_TRUE(std::filesystem::is_empty(folder.path()));
}

TEST(NoFfmpeg, PngFilesAreWritten) {
  const TemporaryFolder folder;
  const auto frames = moving_disc(3, 8, 8);
  save_video(frames, folder.path() / "v.png", 7);
  save_video(frames, folder.path() / "frames/", 7);
  EXPECT_EQ(load_image(folder.path() / "v.png").sizes(), frames[0].sizes());
  EXPECT_TRUE(load_image(folder.path() / "frames/0001.png").equal(load_image(folder.path() / "v.png")));
}

}  // namespace
}  // namespace deepcache
