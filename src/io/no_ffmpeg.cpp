#include "error.hpp"
#include "io/video_format.hpp"

// What a build without FFmpeg's libraries has in place of encode_video.cpp.

namespace deepcache {
namespace {

[[noreturn]] void refuse() {
  throw std::runtime_error(
      "this library was built without FFmpeg, which .mp4 and .webm need: configure it with -DDEEPCACHE_FFMPEG=ON and "
      "FFmpeg's libavcodec, libavformat and libavutil; .png, .apng and folders of frames work");
}

}  // namespace

std::string choose_encoder(VideoFormat, VideoCodec) {
  refuse();
}

std::string encode_video(const torch::Tensor&, VideoFormat, FrameRate, const VideoOptions&) {
  refuse();
}

}  // namespace deepcache
