#pragma once

#include <cstdint>
#include <filesystem>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>

namespace deepcache {

/// The whole file. @throws std::runtime_error naming the file if it can't be read.
std::string read_file(const std::filesystem::path& file);

/// The file parsed as JSON. @throws std::runtime_error naming the file, and the place if the text isn't JSON.
nlohmann::json read_json(const std::filesystem::path& file);

/// Writes beside `file` and renames: the file is whole or absent. @throws std::runtime_error if that fails.
void write_file(const std::filesystem::path& file, std::string_view bytes);

/// SHA-256 of a file's bytes, as 64 lower-case hexadecimal digits.
std::string sha256(const std::filesystem::path& file);

}  // namespace deepcache
