#include <png.h>
#include <zlib.h>

#include <vector>

#include "io/png.hpp"
#include "io/video_format.hpp"

// Chunks acTL, fcTL and fdAT: "Animated PNG graphics", part of PNG's third edition (https://www.w3.org/TR/png-3/).

namespace deepcache {
namespace {

constexpr std::size_t kSignatureSize = 8;

std::string big_endian(std::uint32_t value, int bytes = 4) {
  std::string text;
  for (int i = bytes - 1; i >= 0; --i) text += static_cast<char>(value >> (8 * i) & 0xFF);
  return text;
}

std::string chunk(std::string_view type, std::string_view data) {
  const auto body = std::string(type).append(data);
  const auto crc = crc32(0, reinterpret_cast<const Bytef*>(body.data()), static_cast<uInt>(body.size()));
  return big_endian(static_cast<std::uint32_t>(data.size())) + body + big_endian(static_cast<std::uint32_t>(crc));
}

struct Chunk {
  std::string_view type;
  std::string_view data;
  std::string_view whole;
};

/// The chunks of a PNG file that libpng wrote.
std::vector<Chunk> chunks_of(std::string_view png) {
  std::vector<Chunk> chunks;
  for (auto rest = png.substr(kSignatureSize); !rest.empty();) {
    const std::size_t size = png_get_uint_32(reinterpret_cast<png_const_bytep>(rest.data()));
    chunks.push_back({rest.substr(4, 4), rest.substr(8, size), rest.substr(0, size + 12)});
    rest.remove_prefix(size + 12);
  }
  return chunks;
}

/// fcTL of a whole frame that replaces the one before.
std::string frame_control(std::uint32_t sequence, const torch::Tensor& frame, FrameRate rate) {
  const auto side = [&](int dim) { return big_endian(static_cast<std::uint32_t>(frame.size(dim))); };
  const auto whole = side(2) + side(1) + big_endian(0) + big_endian(0);
  const auto seconds = big_endian(static_cast<std::uint32_t>(rate.denominator), 2) +
                       big_endian(static_cast<std::uint32_t>(rate.numerator), 2);
  return chunk("fcTL", big_endian(sequence) + whole + seconds + std::string(2, '\0'));
}

}  // namespace

std::string encode_animated_png(const torch::Tensor& frames, FrameRate rate, const PngText& text,
                                const std::filesystem::path& file) {
  std::string bytes;
  std::uint32_t sequence = 0;
  for (std::int64_t i = 0; i < frames.size(0); ++i) {
    const auto png = encode_png(frames[i], i == 0 ? text : PngText{}, file);
    bool controlled = false;
    for (const auto& part : chunks_of(png)) {
      const bool pixels = part.type == "IDAT";
      if (pixels && !controlled) bytes += frame_control(sequence++, frames[i], rate);
      controlled = controlled || pixels;
      if (i > 0) {
        if (pixels) bytes += chunk("fdAT", big_endian(sequence++).append(part.data));
      } else if (part.type == "IHDR") {
        constexpr std::uint32_t kForEver = 0;
        bytes.append(png.substr(0, kSignatureSize)).append(part.whole);
        bytes += chunk("acTL", big_endian(static_cast<std::uint32_t>(frames.size(0))) + big_endian(kForEver));
      } else if (part.type != "IEND") {
        bytes += part.whole;
      }
    }
  }
  return bytes += chunk("IEND", "");
}

}  // namespace deepcache
