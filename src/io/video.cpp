#include "deepcache/video.hpp"

#include <algorithm>
#include <cctype>
#include <cmath>
#include <utility>

#include "error.hpp"
#include "io/files.hpp"
#include "io/video_format.hpp"

namespace deepcache {
namespace {

constexpr double kLeastFps = 0.1, kMostFps = 1000;

bool has_codec(VideoFormat format) {
  return format == VideoFormat::kMp4 || format == VideoFormat::kWebm;
}

std::int64_t longest_side(VideoFormat format) {
  constexpr std::int64_t kCodecs = 16384, kPng = 1'000'000;  // libx264's limit, libpng's
  return has_codec(format) ? kCodecs : kPng;
}

void check_shape(torch::IntArrayRef shape, std::int64_t longest) {
  check_argument(shape.size() == 4 && shape[1] == 3, "frames must be [F, 3, H, W], got [{}]", fmt::join(shape, ", "));
  check_argument(shape[0] > 0, "a video needs 1 frame or more, got [{}]", fmt::join(shape, ", "));
  const auto fits = [&](std::int64_t side) { return side >= 1 && side <= longest; };
  check_argument(fits(shape[2]) && fits(shape[3]), "frames must be 1 to {} pixels high and wide here, got {}x{}",
                 longest, shape[2], shape[3]);
}

void check_metadata(const PngText& metadata) {
  constexpr std::size_t kLongestKeyword = 79;  // PNG's
  for (const auto& [keyword, text] : metadata) {
    check_argument(!keyword.empty() && keyword.size() <= kLongestKeyword,
                   "a keyword of metadata must have 1 to {} bytes, got \"{}\"", kLongestKeyword, keyword);
    check_argument((keyword + text).find('\0') == std::string::npos,
                   "metadata can't hold zero bytes, got some in \"{}\"", keyword);
  }
}

void check_crf(const std::string& encoder, std::optional<int> crf) {
  const int most = encoder == "libx264" ? 51 : 63;
  check_argument(!crf || (*crf >= 0 && *crf <= most), "crf must be 0 to {} for {}, got {}", most, encoder,
                 crf.value_or(0));
}

}  // namespace

VideoFormat video_format(const std::filesystem::path& file) {
  auto extension = file.extension().string();
  std::ranges::transform(extension, extension.begin(), [](unsigned char c) { return std::tolower(c); });
  if (extension == ".mp4") return VideoFormat::kMp4;
  if (extension == ".webm") return VideoFormat::kWebm;
  if (extension == ".png" || extension == ".apng") return VideoFormat::kAnimatedPng;
  check_argument(extension.empty() && !file.empty(),
                 "a video is a file .mp4, .webm, .png or .apng, or a folder whose name has no extension or ends in a "
                 "separator, got \"{}\"",
                 file.string());
  return VideoFormat::kFrameFolder;
}

void check_video(torch::IntArrayRef shape, const std::filesystem::path& file, double fps, const VideoOptions& options) {
  const auto format = video_format(file);
  check_shape(shape, longest_side(format));
  check_argument(std::isfinite(fps) && fps >= kLeastFps && fps <= kMostFps, "fps must be {} to {}, got {}", kLeastFps,
                 kMostFps, fps);
  check_metadata(options.metadata);
  if (has_codec(format)) {
    check_crf(choose_encoder(format, options.codec), options.crf);
  } else {
    check_argument(options.codec == VideoCodec::kAuto && !options.crf,
                   "codec and crf are for .mp4 and .webm, got them for \"{}\"", file.string());
  }
  if (format == VideoFormat::kFrameFolder) check_frame_folder(file);
  check_data(format == VideoFormat::kFrameFolder || !std::filesystem::is_directory(file),
             "can't write {}: it is a folder; for frames in it, end the name with a separator", file.string());
  const auto parent = std::filesystem::absolute(file.has_filename() ? file : file.parent_path()).parent_path();
  check_data(std::filesystem::is_directory(parent), "can't write {}: there is no folder {}", file.string(),
             parent.string());
  if (format != VideoFormat::kFrameFolder) {
    check_writable(file);
  } else if (std::filesystem::is_directory(file)) {
    check_writable(file / "0001.png");
  } else {
    const auto folder = file.has_filename() ? file : file.parent_path();
    std::error_code error;
    std::filesystem::create_directory(folder, error);
    check_data(!error, "can't write {}: {}", file.string(), error.message());
    std::filesystem::remove(folder, error);
  }
}

void save_video(const torch::Tensor& frames, const std::filesystem::path& file, double fps,
                const VideoOptions& options) {
  check_argument(frames.is_floating_point(), "frames must be floating-point values in [0, 1], got {}",
                 c10::toString(frames.scalar_type()));
  check_video(frames.sizes(), file, fps, options);
  const auto format = video_format(file);
  const auto rate = nearest_frame_rate(fps);
  if (format == VideoFormat::kFrameFolder) {
    write_frame_folder(frames, options.metadata, file);
  } else if (format == VideoFormat::kAnimatedPng) {
    write_file(file, encode_animated_png(frames, rate, options.metadata, file));
  } else {
    write_file(file, encode_video(frames, format, rate, options));
  }
}

FrameRate nearest_frame_rate(double fps) {
  constexpr std::int64_t kMost = 65535;
  // Convergents of the continued fraction: each is nearer than any fraction with a smaller denominator.
  std::int64_t numerator = 1, denominator = 0, last_numerator = 0, last_denominator = 1;
  for (double rest = fps;;) {
    const auto whole = static_cast<std::int64_t>(std::floor(rest));
    const auto next_numerator = whole * numerator + last_numerator;
    const auto next_denominator = whole * denominator + last_denominator;
    if (next_numerator > kMost || next_denominator > kMost) break;
    last_numerator = std::exchange(numerator, next_numerator);
    last_denominator = std::exchange(denominator, next_denominator);
    const auto error = rest - static_cast<double>(whole);
    if (error < 1e-6) break;
    rest = 1 / error;
  }
  return {static_cast<std::int32_t>(numerator), static_cast<std::int32_t>(denominator)};
}

}  // namespace deepcache
