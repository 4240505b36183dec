#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

/// CLIP's tokenizer: text to the token ids that a CLIP text encoder reads.
///
///   auto tokenizer = deepcache::CLIPTokenizer::load("models/emoji/tokenizer");
///   std::vector<std::int64_t> ids = tokenizer.encode("a red heart");  // padded to tokenizer.model_max_length()
///
/// Not for training a vocabulary.
namespace deepcache {

/// Byte-level byte-pair encoding with CLIP's text cleaning, ids equal to transformers' `CLIPTokenizer`
/// (transformers/models/clip/tokenization_clip.py, without ftfy). Immutable: may be shared between threads.
class CLIPTokenizer {
 public:
  /// Reads `vocab.json`, `merges.txt` and, where they are, `tokenizer_config.json`, `special_tokens_map.json` and
  /// `added_tokens.json` from a folder in the layout of transformers.
  /// @throws std::runtime_error if a file is missing or malformed, if files disagree, or if a setting that would change
  /// ids isn't supported.
  static CLIPTokenizer load(const std::filesystem::path& folder);

  ~CLIPTokenizer();
  CLIPTokenizer(CLIPTokenizer&&) noexcept;
  CLIPTokenizer& operator=(CLIPTokenizer&&) noexcept;

  /// Ids of the text alone: no start or end token, neither cut nor padded. Text is UTF-8.
  /// @throws std::invalid_argument if it isn't.
  std::vector<std::int64_t> tokenize(std::string_view text) const;

  /// Start token, ids, end token, padding: always `model_max_length()` ids. What doesn't fit is cut, the end token
  /// stays.
  std::vector<std::int64_t> prepare_for_model(std::vector<std::int64_t> ids) const;

  /// `prepare_for_model(tokenize(text))`.
  std::vector<std::int64_t> encode(std::string_view text) const;

  /// The text of ids, as transformers' `decode` gives it without cleaning spaces up: lower case, a space behind each
  /// word, special tokens too. Bytes that are no UTF-8, as where a character was cut, become U+FFFD.
  /// @throws std::invalid_argument if there is no such id.
  std::string decode(const std::vector<std::int64_t>& ids) const;

  /// Writes textual inversions of several vectors out, as diffusers' pipelines do with a prompt before they tokenize
  /// it: where the tokens "<cat>", "<cat>_1" and "<cat>_2" were added, each "<cat>" becomes "<cat> <cat>_1 <cat>_2".
  std::string maybe_convert_prompt(std::string_view prompt) const;

  /// Ids in an encoded prompt (77 for Stable Diffusion).
  std::int64_t model_max_length() const;

 private:
  struct Impl;
  explicit CLIPTokenizer(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace deepcache
