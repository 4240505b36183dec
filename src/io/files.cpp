#include "io/files.hpp"

#include <openssl/evp.h>

#include <array>
#include <fstream>
#include <memory>
#include <nlohmann/json.hpp>
#include <system_error>

#include "error.hpp"

namespace deepcache {
namespace {

std::ifstream open_for_reading(const std::filesystem::path& file) {
  check_data(std::filesystem::is_regular_file(file), "no such file: {}", file.string());
  std::ifstream stream(file, std::ios::binary);
  check_data(stream.is_open(), "can't read {}", file.string());
  return stream;
}

}  // namespace

std::string read_file(const std::filesystem::path& file) {
  auto stream = open_for_reading(file);
  std::string bytes((std::istreambuf_iterator<char>(stream)), {});
  check_data(!stream.bad(), "can't read {}", file.string());
  return bytes;
}

nlohmann::json read_json(const std::filesystem::path& file) {
  try {
    return nlohmann::json::parse(read_file(file));
  } catch (const nlohmann::json::parse_error& error) {
    throw std::runtime_error(fmt::format("{} isn't valid JSON: {}", file.string(), error.what()));
  }
}

void write_file(const std::filesystem::path& file, std::string_view bytes) {
  auto temporary = file;
  temporary += ".part";
  std::ofstream stream(temporary, std::ios::binary | std::ios::trunc);
  stream.write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
  stream.close();
  std::error_code error;
  if (stream) std::filesystem::rename(temporary, file, error);
  if (!stream || error) {
    std::error_code ignored;
    std::filesystem::remove(temporary, ignored);
    throw std::runtime_error(fmt::format("can't write {}{}", file.string(), error ? ": " + error.message() : ""));
  }
}

std::string sha256(const std::filesystem::path& file) {
  auto stream = open_for_reading(file);
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
