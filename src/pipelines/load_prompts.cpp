#include <sstream>

#include "deepcache/generate.hpp"
#include "error.hpp"
#include "io/files.hpp"
#include "io/utf8.hpp"

namespace deepcache {

std::vector<std::string> load_prompts(const std::filesystem::path& file) {
  constexpr std::string_view kByteOrderMark = "\xEF\xBB\xBF";
  auto text = read_file(file);
  const auto broken = find_non_utf8(text);
  check_data(!broken, "{} must be UTF-8, got something else at byte {} of {}", file.string(), broken.value_or(0),
             text.size());
  if (text.starts_with(kByteOrderMark)) text.erase(0, kByteOrderMark.size());
  std::vector<std::string> prompts;
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);) {
    if (line.ends_with('\r')) line.pop_back();
    if (line.find_first_not_of(" \t") != std::string::npos) prompts.push_back(line);
  }
  check_data(!prompts.empty(), "{} must hold a prompt a line, got none in {} bytes", file.string(), text.size());
  return prompts;
}

}  // namespace deepcache
