#pragma once

#include <torch/types.h>

#include <filesystem>
#include <string>
#include <string_view>

#include "deepcache/image.hpp"

namespace deepcache {

/// The bytes of an 8-bit RGB PNG file of an image [3, H, W]; `file` is what errors name.
/// @throws std::invalid_argument if the tensor isn't [3, H, W]. @throws std::runtime_error if libpng refuses it.
std::string encode_png(const torch::Tensor& image, const PngText& text, const std::filesystem::path& file);

bool is_png(std::string_view bytes);

/// RGBA bytes [H, W, 4] of a PNG file's bytes. @throws std::runtime_error naming the file if they are damaged, or of
/// more than `most_pixels`.
torch::Tensor decode_png(std::string_view bytes, std::uint64_t most_pixels, const std::filesystem::path& file);

}  // namespace deepcache
