#pragma once

#include <torch/types.h>

#include <filesystem>
#include <map>
#include <string>
#include <vector>

namespace deepcache {

/// What FFmpeg's own libraries read from a video file.
struct DecodedVideo {
  std::string codec;
  std::string pixel_format;
  std::string colours;  ///< matrix, primaries, transfer, range, place of the chroma samples
  double fps = 0;
  double seconds = 0;                            ///< of the file
  std::vector<double> times = {};                ///< of each frame, in seconds
  std::map<std::string, std::string> tags = {};  ///< keywords in lower case
  torch::Tensor frames = {};                     ///< [F, 3, H, W] in [0, 1], made by libswscale
};

DecodedVideo decode_video(const std::filesystem::path& file);

}  // namespace deepcache
