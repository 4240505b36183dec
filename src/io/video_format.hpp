#pragma once

#include <torch/types.h>

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>

#include "deepcache/video.hpp"

namespace deepcache {

enum class VideoFormat { kMp4, kWebm, kAnimatedPng, kFrameFolder };

/// What a file's name asks for. @throws std::invalid_argument for another extension.
VideoFormat video_format(const std::filesystem::path& file);

/// A frame rate as a fraction, as files keep it.
struct FrameRate {
  std::int32_t numerator;
  std::int32_t denominator;
};

/// The fraction nearest to a rate of 0.1 to 1000 frames a second with neither number above 65535, which is what
/// animated PNG can hold: 7/1, 30000/1001.
FrameRate nearest_frame_rate(double fps);

/// The bytes of an animated PNG (APNG 1.0) of frames [F, 3, H, W].
std::string encode_animated_png(const torch::Tensor& frames, FrameRate rate, const PngText& text,
                                const std::filesystem::path& file);

/// Writes frames [F, 3, H, W] as 0001.png, 0002.png, ... into a folder, new or one that `check_frame_folder` accepts.
void write_frame_folder(const torch::Tensor& frames, const PngText& text, const std::filesystem::path& folder);

/// @throws std::runtime_error if the path is a file, or a folder that holds anything but numbered PNG files.
void check_frame_folder(const std::filesystem::path& folder);

/// FFmpeg's name of the encoder for MP4 or WebM. @throws std::invalid_argument if the codec isn't for the format.
/// @throws std::runtime_error if FFmpeg's libraries were left out of this build or lack the encoder.
std::string choose_encoder(VideoFormat format, VideoCodec codec);

/// The bytes of an MP4 or WebM file of frames [F, 3, H, W]; `options` must be what `check_video` accepts.
std::string encode_video(const torch::Tensor& frames, VideoFormat format, FrameRate rate, const VideoOptions& options);

}  // namespace deepcache
