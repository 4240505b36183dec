#include "io/files.hpp"

#include <openssl/evp.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <fstream>
#include <memory>
#include <nlohmann/json.hpp>
#include <random>
#include <set>
#include <sstream>
#include <system_error>
#include <utility>

#include "error.hpp"

namespace deepcache {
namespace {

/// A name beside `file` that no other writer uses.
std::filesystem::path temporary_name(const std::filesystem::path& file) {
  std::random_device random;
  auto name = file;
  name += fmt::format(".{:08x}{:08x}.part", random(), random());
  return name;
}

/// What a symbolic link names in the end, whether that is there or not; any other file is itself.
std::filesystem::path follow_links(std::filesystem::path file) {
  constexpr int kMostLinks = 40;  // as many as Linux follows
  std::error_code error;
  for (int i = 0; i < kMostLinks && std::filesystem::is_symlink(file, error); ++i)
    file = file.parent_path() / std::filesystem::read_symlink(file, error);
  return file;
}

bool write_bytes(const std::filesystem::path& file, std::string_view bytes) {
  std::ofstream stream(file, std::ios::binary | std::ios::trunc);
  stream.write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
  stream.close();
  return stream.good();
}

}  // namespace

std::ifstream open_file(const std::filesystem::path& file) {
  check_data(std::filesystem::is_regular_file(file), "no such file: {}", file.string());
  std::ifstream stream(file, std::ios::binary);
  check_data(stream.is_open(), "can't read {}", file.string());
  return stream;
}

std::string read_file(const std::filesystem::path& file) {
  auto stream = open_file(file);
  std::ostringstream bytes;
  bytes << stream.rdbuf();
  check_data(!stream.bad(), "can't read {}", file.string());
  return std::move(bytes).str();
}

nlohmann::json read_json(const std::filesystem::path& file) {
  try {
    return nlohmann::json::parse(read_file(file));
  } catch (const nlohmann::json::exception& error) {
    throw std::runtime_error(fmt::format("{} isn't valid JSON: {}", file.string(), error.what()));
  }
}

void write_file(const std::filesystem::path& file, std::string_view bytes) {
  std::error_code error, ignored;
  if (std::filesystem::exists(file, ignored) && !std::filesystem::is_regular_file(file, ignored)) {
    check_data(write_bytes(file, bytes), "can't write {}", file.string());
    return;
  }
  const auto target = follow_links(file);
  const auto temporary = temporary_name(target);
  const bool written = write_bytes(temporary, bytes);
  if (written) std::filesystem::rename(temporary, target, error);
  if (!written || error) {
    std::filesystem::remove(temporary, ignored);
    throw std::runtime_error(fmt::format("can't write {}{}", file.string(), error ? ": " + error.message() : ""));
  }
}

void check_writable(const std::filesystem::path& file) {
  std::error_code ignored;
  if (std::filesystem::is_other(file, ignored)) return;  // a device or a pipe, whose reader would take it for all
  const auto target = follow_links(file);
  const auto temporary = temporary_name(target);
  const bool good = !std::filesystem::is_directory(target, ignored) && std::ofstream(temporary).is_open();
  std::filesystem::remove(temporary, ignored);
  check_data(good, "can't write {}", file.string());
}

void check_png(const std::filesystem::path& file) {
  auto extension = file.extension().string();
  std::ranges::transform(extension, extension.begin(), [](unsigned char c) { return std::tolower(c); });
  check_argument(extension.empty() || extension == ".png", "pictures are written as .png, got \"{}\"", file.string());
}

void check_distinct(const std::vector<std::filesystem::path>& files) {
  std::set<std::filesystem::path> names;
  for (const auto& file : files)
    check_argument(names.insert(std::filesystem::absolute(file).lexically_normal()).second,
                   "two outputs would have the name {}", file.string());
}

std::string sha256(const std::filesystem::path& file) {
  auto stream = open_file(file);
  const std::unique_ptr<EVP_MD_CTX, decltype(&EVP_MD_CTX_free)> context(EVP_MD_CTX_new(), &EVP_MD_CTX_free);
  bool good = context && EVP_DigestInit_ex(context.get(), EVP_sha256(), nullptr) == 1;
  std::array<char, 1 << 16> buffer{};
  while (good && stream) {
    stream.read(buffer.data(), buffer.size());
    good = EVP_DigestUpdate(context.get(), buffer.data(), static_cast<std::size_t>(stream.gcount())) == 1;
  }
  std::array<unsigned char, EVP_MAX_MD_SIZE> digest{};
  unsigned int size = 0;
  good = good && !stream.bad() && EVP_DigestFinal_ex(context.get(), digest.data(), &size) == 1;
  check_data(good, "can't compute the SHA-256 of {}", file.string());
  std::string text;
  for (unsigned int i = 0; i < size; ++i) text += fmt::format("{:02x}", digest[i]);
  return text;
}

}  // namespace deepcache
