#include <fstream>
#include <string>

#include "deepcache/image.hpp"
#include "error.hpp"
#include "io/files.hpp"
#include "io/jpeg.hpp"
#include "io/png.hpp"

namespace deepcache {
namespace {

/// Bytes [3, H, W].
torch::Tensor read_pixels(const std::filesystem::path& file) {
  constexpr std::uint64_t kMostPixels = std::uint64_t{1} << 26;
  constexpr std::uintmax_t kMostBytes = std::uintmax_t{1} << 30;
  std::string start(8, '\0');
  open_file(file).read(start.data(), static_cast<std::streamsize>(start.size()));
  check_data(is_png(start) || is_jpeg(start), "{} is neither a PNG nor a JPEG image", file.string());
  check_data(std::filesystem::file_size(file) <= kMostBytes, "{} has {} bytes; an image may have {}", file.string(),
             std::filesystem::file_size(file), kMostBytes);
  const auto bytes = read_file(file);
  const auto pixels = is_png(bytes) ? decode_png(bytes, kMostPixels, file) : decode_jpeg(bytes, kMostPixels, file);
  return pixels.slice(2, 0, 3).permute({2, 0, 1});
}

}  // namespace

torch::Tensor load_image(const std::filesystem::path& file) {
  return (read_pixels(file).to(torch::kFloat) / 255).contiguous();
}

torch::Tensor load_mask(const std::filesystem::path& file) {
  constexpr std::int32_t kRed = 19595, kGreen = 38470, kBlue = 7471;  // sum to 2^16; as Pillow's
  const auto pixels = read_pixels(file).to(torch::kInt);
  const auto luma = (kRed * pixels[0] + kGreen * pixels[1] + kBlue * pixels[2] + (1 << 15)).bitwise_right_shift(16);
  return luma.unsqueeze(0).to(torch::kFloat) / 255;
}

}  // namespace deepcache
