#pragma once

#include <cstdint>
#include <filesystem>
#include <iosfwd>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>
#include <vector>

namespace deepcache {

/// Opens a file. @throws std::runtime_error naming the file if it is missing or can't be read.
std::ifstream open_file(const std::filesystem::path& file);

/// The whole file. @throws std::runtime_error naming the file if it can't be read.
std::string read_file(const std::filesystem::path& file);

/// The file parsed as JSON. @throws std::runtime_error naming the file, and the place if the text isn't JSON.
nlohmann::json read_json(const std::filesystem::path& file);

/// Writes beside `file` and renames: the file is whole or absent. What a symbolic link names is replaced, not the link;
/// what is no regular file (a device, a pipe) is written to as it is. @throws std::runtime_error if that fails.
void write_file(const std::filesystem::path& file, std::string_view bytes);

/// Fails where `write_file` would, as far as can be told before there is anything to write.
/// @throws std::runtime_error naming the file.
void check_writable(const std::filesystem::path& file);

/// @throws std::invalid_argument if a picture's file is named otherwise than .png, or has no extension.
void check_png(const std::filesystem::path& file);

/// @throws std::invalid_argument if two of the files are one.
void check_distinct(const std::vector<std::filesystem::path>& files);

/// SHA-256 of a file's bytes, as 64 lower-case hexadecimal digits.
std::string sha256(const std::filesystem::path& file);

}  // namespace deepcache
