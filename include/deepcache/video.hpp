#pragma once

#include <torch/types.h>

#include <filesystem>
#include <optional>

#include "deepcache/image.hpp"

/// Frames as video files.
///
///   deepcache::save_video(frames, "cat.mp4", 7);                            // H.264; any browser plays it
///   deepcache::save_video(frames, "cat.webm", 7, {.crf = 40});              // VP9, smaller
///   deepcache::save_video(frames, "cat.png", 7);                            // animated PNG, without loss
///   deepcache::save_video(frames, "cat/", 7);                               // cat/0001.png, cat/0002.png, ...
///
/// Not for sound, nor for reading videos.
namespace deepcache {

enum class VideoCodec {
  kAuto,  ///< MP4: H.264 if the FFmpeg that is used has libx264, else VP9. WebM: VP9.
  kH264,  ///< in MP4 only
  kVp9,
};

struct VideoOptions {
  VideoCodec codec = VideoCodec::kAuto;  ///< of MP4 and WebM files
  std::optional<int> crf = {};           ///< of MP4 and WebM files: the less, the better and larger; H.264 0..51, VP9
                                         ///< 0..63; unless set 18 and 16, whose loss is hard to see
  PngText metadata = {};  ///< keywords and texts to keep in the file: tags of MP4 and WebM, texts of animated PNG and
                          ///< of the first frame of a folder
};

/// Writes frames [F, 3, H, W], floating-point values in [0, 1], `fps` of them a second, as its name says:
/// - .mp4, .webm: 4:2:0, colours by BT.709; an odd height or width grows by one, the last row or column twice.
///   FFmpeg's libraries are needed, which is an option of this library's build (DEEPCACHE_FFMPEG).
/// - .png, .apng: animated PNG without loss of the 8-bit pixels, repeated for ever.
/// - a name that ends in a separator or has no extension: a folder of PNG files, numbered from 0001.png on. If it is
///   there, frames of an earlier video in it are replaced, and it may hold nothing else; `fps` isn't kept.
/// The file, or a new folder, is whole or absent. Equal frames and options give equal bytes with the same version of
/// FFmpeg.
/// @throws std::invalid_argument as `check_video`, or if the frames aren't floating-point values.
/// @throws std::runtime_error as `check_video`, or if the file can't be written.
void save_video(const torch::Tensor& frames, const std::filesystem::path& file, double fps,
                const VideoOptions& options = {});

/// Refuses what `save_video` would refuse for frames of this shape, before there are any.
/// @throws std::invalid_argument if the shape isn't [F, 3, H, W] with a frame or more, a side is longer than the format
/// allows, `fps` isn't from 0.1 to 1000, the extension is unknown, or the options don't fit the format.
/// @throws std::runtime_error if this library, or its FFmpeg, can't encode such files, or the folder to write into is
/// missing or holds other files.
void check_video(torch::IntArrayRef shape, const std::filesystem::path& file, double fps,
                 const VideoOptions& options = {});

}  // namespace deepcache
