#include "models/clip_vocabulary.hpp"

#include <algorithm>
#include <limits>
#include <map>
#include <nlohmann/json.hpp>
#include <string_view>

#include "error.hpp"
#include "io/files.hpp"

namespace deepcache {
namespace {

using nlohmann::json;
using Path = std::filesystem::path;
using Id = CLIPVocabulary::Id;
using Vocab = std::unordered_map<std::string, Id>;
using AddedTokens = std::map<std::string, Id>;

constexpr std::int64_t kDefaultLength = 77;
constexpr std::int64_t kLargestLength = 65536;
constexpr double kUnlimitedLength = 1e20;             // transformers' LARGE_INTEGER: a length above it means "not set"
constexpr std::size_t kMergesRead = 49152 - 256 - 2;  // transformers reads no merges after these

json read_object(const Path& file) {
  json content = read_json(file);
  check_data(content.is_object(), "{} must hold an object, got {}", file.string(), content.type_name());
  return content;
}

Id read_id(const json& id, const std::string& token, const Path& file) {
  const bool valid = id.is_number_integer() && id >= 0 && id <= std::numeric_limits<Id>::max();
  if (valid) return id.get<Id>();  // no arguments of a message to make: this runs once a token
  throw std::runtime_error(fmt::format("{}: the id of '{}' must be an integer from 0 to {}, got {}", file.string(),
                                       token, std::numeric_limits<Id>::max(), id.dump()));
}

Vocab read_vocab(const Path& file) {
  const json content = read_object(file);
  Vocab vocab;
  std::vector<Id> ids;
  vocab.reserve(content.size());
  ids.reserve(content.size());
  for (const auto& [token, value] : content.get_ref<const json::object_t&>()) {
    ids.push_back(vocab.emplace(token, read_id(value, token, file)).first->second);
  }
  std::ranges::sort(ids);
  const auto shared = std::ranges::adjacent_find(ids);
  check_data(shared == ids.end(), "{}: several tokens have the id {}", file.string(),
             shared == ids.end() ? 0 : *shared);
  return vocab;
}

/// Puts one line of merges.txt, "left right", into the map.
void add_merge(std::string_view line, std::size_t rank, const std::string& file, const Vocab& vocab,
               CLIPVocabulary::Merges& merges) {
  const auto space = line.find(' ');
  const bool two_symbols =
      space != std::string_view::npos && space > 0 && space + 1 < line.size() && space == line.rfind(' ');
  check_data(two_symbols, "{}: line {} must hold two symbols with a space between, got '{}'", file, rank + 1, line);
  const auto id_of = [&](const std::string& symbol) {
    const auto entry = vocab.find(symbol);
    check_data(entry != vocab.end(), "vocab and merges disagree: line {} of {} is '{}', but vocab.json has no '{}'",
               rank + 1, file, line, symbol);
    return entry->second;
  };
  const std::string left(line.substr(0, space));
  const std::string right(line.substr(space + 1));
  const auto key = CLIPVocabulary::pair_key(id_of(left), id_of(right));
  merges.insert_or_assign(key, CLIPVocabulary::Merge{rank, id_of(left + right)});
}

CLIPVocabulary::Merges read_merges(const Path& file, const Vocab& vocab) {
  constexpr std::string_view kSpace = " \t\r\n";
  const std::string name = file.string();
  const std::string content = read_file(file);
  std::string_view rest(content);
  rest = rest.substr(0, rest.find_last_not_of(kSpace) + 1);
  check_data(!rest.empty(), "{} must begin with a line that names its version, but is empty", name);
  rest.remove_prefix(rest.find_first_not_of(kSpace));
  CLIPVocabulary::Merges merges;
  merges.reserve(vocab.size());
  for (std::size_t index = 0; !rest.empty() && index <= kMergesRead; ++index) {
    std::string_view line = rest.substr(0, rest.find('\n'));
    rest.remove_prefix(std::min(line.size() + 1, rest.size()));
    if (line.ends_with('\r')) line.remove_suffix(1);
    if (index > 0) add_merge(line, index, name, vocab, merges);  // line 0 is the version
  }
  return merges;
}

/// tokenizer_config.json, with special_tokens_map.json on top unless the former lists the added tokens: this is how
/// transformers' `_from_pretrained` ranks them.
json read_settings(const Path& folder) {
  json settings = json::object();
  for (const char* name : {"tokenizer_config.json", "special_tokens_map.json"}) {
    if (settings.contains("added_tokens_decoder") || !std::filesystem::exists(folder / name)) continue;
    settings.update(read_object(folder / name));
  }
  const json supported = {{"padding_side", "right"}, {"truncation_side", "right"}, {"split_special_tokens", false}};
  for (const auto& [key, value] : supported.items()) {
    const json got = settings.value(key, value);
    check_data(got == value, "{}: {} must be {}, got {}", folder.string(), key, value.dump(), got.dump());
  }
  return settings;
}

std::int64_t read_max_length(const json& settings, const Path& folder) {
  const json length = settings.value("model_max_length", json());
  if (length.is_null() || (length.is_number() && length > kUnlimitedLength)) return kDefaultLength;
  check_data(length.is_number_integer() && length >= 2 && length <= kLargestLength,
             "{}: model_max_length must be an integer from 2 to {}, got {}",
             (folder / "tokenizer_config.json").string(), kLargestLength, length.dump());
  return length.get<std::int64_t>();
}

/// A token of the settings: a string, or an object that describes transformers' AddedToken.
std::string read_token(const json& token, const std::string& key, const Path& folder) {
  const json content = token.is_object() ? token.value("content", json()) : token;
  check_data(content.is_string() && !content.get_ref<const std::string&>().empty(), "{}: {} must be a token, got {}",
             folder.string(), key, token.dump());
  for (const char* flag : {"lstrip", "rstrip", "single_word"}) {
    check_data(!token.is_object() || token.value(flag, json(false)) == false, "{}: {} of {} '{}' must be false, got {}",
               folder.string(), flag, key, content.get<std::string>(), token.dump());
  }
  return content;
}

/// Tokens that a folder lists with their ids; some aren't in vocab.json (textual inversion adds such).
AddedTokens read_added_tokens(const json& settings, const Path& folder, const Vocab& vocab) {
  AddedTokens added;
  const auto add = [&](const std::string& token, const json& id, const Path& file) {
    added[token] = read_id(id, token, file);
    const auto entry = vocab.find(token);
    check_data(entry == vocab.end() || entry->second == added[token], "{}: '{}' has the id {}, but {} in vocab.json",
               file.string(), token, added[token], entry == vocab.end() ? 0 : entry->second);
  };
  if (settings.contains("added_tokens_decoder")) {
    const json& listed = settings["added_tokens_decoder"];
    check_data(listed.is_object(), "{}: added_tokens_decoder must be an object, got {}", folder.string(),
               listed.type_name());
    for (const auto& [key, token] : listed.items()) {
      const json id = json::parse(key, nullptr, /*allow_exceptions=*/false);
      add(read_token(token, "added_tokens_decoder", folder), id, folder / "tokenizer_config.json");
    }
  } else if (const Path file = folder / "added_tokens.json"; std::filesystem::exists(file)) {
    const json listed = read_object(file);
    for (const auto& [token, id] : listed.items()) add(token, id, file);
  }
  return added;
}

/// Makes the special tokens of the settings added tokens too, and returns the id of each by its key.
std::unordered_map<std::string, Id> read_special_tokens(const json& settings, const Path& folder, const Vocab& vocab,
                                                        AddedTokens& added) {
  json specials = {{"bos_token", "<|startoftext|>"},
                   {"eos_token", "<|endoftext|>"},
                   {"pad_token", "<|endoftext|>"},
                   {"unk_token", "<|endoftext|>"}};
  for (const auto& [key, token] : settings.items()) {
    const bool optional = key == "sep_token" || key == "cls_token" || key == "mask_token";
    if (specials.contains(key) || (optional && !token.is_null())) specials[key] = token;
    if (key != "additional_special_tokens" && key != "extra_special_tokens") continue;
    for (const auto& [index, extra] : token.items()) specials[fmt::format("{} {}", key, index)] = extra;
  }
  std::unordered_map<std::string, Id> ids;
  for (const auto& [key, token] : specials.items()) {
    const std::string content = read_token(token, key, folder);
    if (const auto entry = vocab.find(content); entry != vocab.end()) added[content] = entry->second;
    check_data(added.contains(content), "{} has no '{}', the {}", (folder / "vocab.json").string(), content, key);
    ids[key] = added[content];
  }
  return ids;
}

/// The byte itself if it prints in Latin-1, else the next character from U+0100 on: the symbols of byte-level BPE.
std::array<std::string, 256> byte_symbols() {
  std::array<std::string, 256> symbols;
  unsigned substitute = 0x100;
  for (unsigned byte = 0; byte < 256; ++byte) {
    const bool prints = (byte > 0x20 && byte < 0x7F) || (byte > 0xA0 && byte != 0xAD);
    const unsigned c = prints ? byte : substitute++;
    if (c < 0x80) {
      symbols[byte] = std::string(1, static_cast<char>(c));
    } else {
      symbols[byte] = {static_cast<char>(0xC0 | (c >> 6)), static_cast<char>(0x80 | (c & 0x3F))};
    }
  }
  return symbols;
}

}  // namespace

CLIPVocabulary read_clip_vocabulary(const Path& folder) {
  const Vocab vocab = read_vocab(folder / "vocab.json");
  const json settings = read_settings(folder);
  AddedTokens added = read_added_tokens(settings, folder, vocab);
  auto special_ids = read_special_tokens(settings, folder, vocab, added);

  CLIPVocabulary result;
  for (const auto& [symbol, id] : vocab) result.symbols.emplace(id, symbol);
  result.merges = read_merges(folder / "merges.txt", vocab);
  result.start = special_ids["bos_token"];
  result.end = special_ids["eos_token"];
  result.padding = special_ids["pad_token"];
  result.unknown = special_ids["unk_token"];
  result.max_length = read_max_length(settings, folder);
  result.added_tokens.assign(added.begin(), added.end());
  std::ranges::stable_sort(result.added_tokens, std::ranges::greater(),
                           [](const auto& entry) { return entry.first.size(); });
  const auto id_or = [&](const std::string& token, Id fallback) {
    const auto entry = vocab.find(token);
    return entry == vocab.end() ? fallback : entry->second;
  };
  result.start_of_text = id_or("<|startoftext|>", result.unknown);
  result.end_of_text = id_or("<|endoftext|>", result.unknown);
  const auto symbols = byte_symbols();
  for (std::size_t byte = 0; byte < symbols.size(); ++byte) {
    result.bytes.emplace(symbols[byte], static_cast<char>(byte));
    result.byte_ids[byte] = id_or(symbols[byte], CLIPVocabulary::kMissing);
    result.last_byte_ids[byte] = id_or(symbols[byte] + "</w>", CLIPVocabulary::kMissing);
  }
  return result;
}

}  // namespace deepcache
