#include "io/exif.hpp"

#include <cstddef>
#include <cstdint>
#include <optional>

namespace deepcache {
namespace {

/// Whole numbers of a TIFF file, in its byte order; none where the file ends before.
class TiffReader {
 public:
  explicit TiffReader(std::string_view bytes) : bytes_(bytes), big_endian_(bytes.starts_with("MM")) {}

  std::optional<std::uint32_t> number(std::size_t offset, std::size_t size) const {
    if (offset > bytes_.size() || bytes_.size() - offset < size) return std::nullopt;
    std::uint32_t value = 0;
    for (std::size_t i = 0; i < size; ++i) {
      const auto byte = static_cast<unsigned char>(bytes_[offset + (big_endian_ ? i : size - 1 - i)]);
      value = value << 8 | byte;
    }
    return value;
  }

 private:
  std::string_view bytes_;
  bool big_endian_;
};

}  // namespace

int exif_orientation(std::string_view exif) {
  constexpr std::uint32_t kOrientation = 0x0112, kShort = 3;
  constexpr std::size_t kEntrySize = 12;  // tag, type, count, value
  const TiffReader tiff(exif);
  if (!exif.starts_with("MM") && !exif.starts_with("II")) return 1;
  const auto directory = tiff.number(4, 4).value_or(0);
  const auto count = tiff.number(directory, 2).value_or(0);
  for (std::size_t i = 0; i < count; ++i) {
    const auto entry = directory + 2 + i * kEntrySize;
    const auto tag = tiff.number(entry, 2);
    if (!tag) return 1;
    if (*tag != kOrientation) continue;
    const auto value = tiff.number(entry + 8, 2).value_or(1);
    const bool known = tiff.number(entry + 2, 2) == kShort && value >= 1 && value <= 8;
    return known ? static_cast<int>(value) : 1;
  }
  return 1;
}

}  // namespace deepcache
