#pragma once

#include <torch/types.h>

#include <filesystem>
#include <string_view>

namespace deepcache {

bool is_jpeg(std::string_view bytes);

/// RGB bytes [H, W, 3] of a JPEG file's bytes, upright (Exif's orientation is applied). @throws std::runtime_error
/// naming the file if they are damaged, neither grey nor colours for screens, or of more than `most_pixels`.
torch::Tensor decode_jpeg(std::string_view bytes, std::uint64_t most_pixels, const std::filesystem::path& file);

}  // namespace deepcache
