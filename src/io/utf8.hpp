#pragma once

#include <cstddef>
#include <optional>
#include <string_view>

namespace deepcache {

/// The first byte that is no part of a character in UTF-8; none if all are.
std::optional<std::size_t> find_non_utf8(std::string_view text);

}  // namespace deepcache
