#pragma once

#include <array>
#include <memory>
#include <string_view>

extern "C" {
#include <libavcodec/avcodec.h>
#include <libavformat/avformat.h>
#include <libavutil/error.h>
}

#include "error.hpp"

namespace deepcache {

struct AvDeleter {
  void operator()(AVCodecContext* context) const { avcodec_free_context(&context); }
  void operator()(AVFormatContext* context) const { avformat_free_context(context); }
  void operator()(AVFrame* frame) const { av_frame_free(&frame); }
  void operator()(AVPacket* packet) const { av_packet_free(&packet); }
};

template <typename T>
using AvPtr = std::unique_ptr<T, AvDeleter>;

/// Takes over what FFmpeg made. @throws std::runtime_error if that is nothing.
template <typename T>
AvPtr<T> av_own(T* made) {
  check_data(made != nullptr, "FFmpeg is out of memory");
  return AvPtr<T>(made);
}

/// The code, which FFmpeg gave for the attempt to `action`. @throws std::runtime_error with FFmpeg's own words if it is
/// an error.
inline int check_av(int code, std::string_view action) {
  if (code >= 0) return code;
  std::array<char, AV_ERROR_MAX_STRING_SIZE> words{};
  av_strerror(code, words.data(), words.size());
  throw std::runtime_error(fmt::format("FFmpeg can't {}: {}", action, words.data()));
}

}  // namespace deepcache
