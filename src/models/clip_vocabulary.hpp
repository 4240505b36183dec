#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

namespace deepcache {

/// What a folder in the layout of transformers says about a CLIP tokenizer, as ids.
struct CLIPVocabulary {
  using Id = std::int32_t;

  /// Two adjacent symbols become `result`; the lowest rank is merged first.
  struct Merge {
    std::size_t rank;
    Id result;
  };

  using Merges = std::unordered_map<std::uint64_t, Merge>;  ///< by pair_key

  static constexpr Id kMissing = -1;  ///< the symbol of a byte that vocab.json lacks

  std::array<Id, 256> byte_ids{};       ///< of each byte inside a word
  std::array<Id, 256> last_byte_ids{};  ///< of each byte at the end of a word
  Merges merges;
  std::unordered_map<std::int64_t, std::string> symbols;  ///< of each id of vocab.json, as it spells them
  std::unordered_map<std::string, char> bytes;            ///< by what vocab.json spells each as
  std::vector<std::pair<std::string, Id>> added_tokens;   ///< tokens cut out of raw text, the longest first
  Id start = 0;                                           ///< bos_token
  Id end = 0;                                             ///< eos_token
  Id padding = 0;                                         ///< pad_token
  Id unknown = 0;                                         ///< unk_token
  Id start_of_text = 0;                                   ///< "<|startoftext|>", whatever bos_token is
  Id end_of_text = 0;                                     ///< "<|endoftext|>", whatever eos_token is
  std::int64_t max_length = 0;                            ///< ids in an encoded prompt

  static std::uint64_t pair_key(Id left, Id right) {
    return (static_cast<std::uint64_t>(static_cast<std::uint32_t>(left)) << 32) | static_cast<std::uint32_t>(right);
  }
};

/// Reads vocab.json, merges.txt and, where they are, tokenizer_config.json, special_tokens_map.json and
/// added_tokens.json. @throws std::runtime_error if a file is missing or malformed, or if they disagree.
CLIPVocabulary read_clip_vocabulary(const std::filesystem::path& folder);

}  // namespace deepcache
