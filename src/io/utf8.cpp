#include "io/utf8.hpp"

#include <unicode/utf8.h>

#include <cstdint>

namespace deepcache {

std::optional<std::size_t> find_non_utf8(std::string_view text) {
  const auto* bytes = reinterpret_cast<const std::uint8_t*>(text.data());
  for (std::size_t position = 0; position < text.size();) {
    const std::size_t begin = position;
    UChar32 c = 0;
    U8_NEXT(bytes, position, text.size(), c);
    if (c < 0) return begin;
  }
  return std::nullopt;
}

}  // namespace deepcache
