#include <unicode/locid.h>
#include <unicode/normalizer2.h>
#include <unicode/uchar.h>
#include <unicode/unistr.h>
#include <unicode/utf8.h>

#include <algorithm>
#include <array>
#include <utility>

#include "deepcache/tokenizer.hpp"
#include "error.hpp"
#include "io/utf8.hpp"
#include "models/clip_vocabulary.hpp"

namespace deepcache {
namespace {

using Id = CLIPVocabulary::Id;

constexpr std::string_view kStartOfText = "<|startoftext|>";
constexpr std::string_view kEndOfText = "<|endoftext|>";
constexpr std::string_view kEndOfWord = "</w>";

/// What CLIP's pattern tries first, in this order and ignoring case.
constexpr std::array<std::string_view, 9> kLiterals = {kStartOfText, kEndOfText, "'s",  "'t", "'re",
                                                       "'ve",        "'m",       "'ll", "'d"};

/// Checks that text is UTF-8, so that next_code_point needn't.
void check_utf8(std::string_view text) {
  const auto broken = find_non_utf8(text);
  check_argument(!broken, "text must be UTF-8, got something else at byte {} of {}", broken.value_or(0), text.size());
}

/// The code point of valid UTF-8 that starts at `position`, which moves behind it.
UChar32 next_code_point(std::string_view text, std::size_t& position) {
  const auto* bytes = reinterpret_cast<const std::uint8_t*>(text.data());
  UChar32 c = 0;
  U8_NEXT_UNSAFE(bytes, position, c);
  return c;
}

/// The blocks in which BasicTokenizer makes a word of each character.
bool is_chinese(UChar32 c) {
  switch (ublock_getCode(c)) {
    case UBLOCK_CJK_UNIFIED_IDEOGRAPHS:
    case UBLOCK_CJK_UNIFIED_IDEOGRAPHS_EXTENSION_A:
    case UBLOCK_CJK_UNIFIED_IDEOGRAPHS_EXTENSION_B:
    case UBLOCK_CJK_UNIFIED_IDEOGRAPHS_EXTENSION_C:
    case UBLOCK_CJK_UNIFIED_IDEOGRAPHS_EXTENSION_D:
    case UBLOCK_CJK_UNIFIED_IDEOGRAPHS_EXTENSION_E:
    case UBLOCK_CJK_COMPATIBILITY_IDEOGRAPHS:
    case UBLOCK_CJK_COMPATIBILITY_IDEOGRAPHS_SUPPLEMENT:
      return true;
    default:
      return false;
  }
}

/// BasicTokenizer without accent stripping and punctuation splitting: drops control, format, private and unassigned
/// characters, makes every other separator a space, puts spaces around Chinese characters, composes (NFC), lowers
/// the case.
std::string clean(std::string_view text, const icu::Normalizer2& nfc) {
  icu::UnicodeString kept;
  for (std::size_t position = 0; position < text.size();) {
    const UChar32 c = next_code_point(text, position);
    const auto category = U_GET_GC_MASK(c);
    if (c == '\t' || c == '\n' || c == '\r' || (category & U_GC_Z_MASK)) {
      kept.append(u' ');
    } else if (c == 0xFFFD || (category & U_GC_C_MASK)) {
      continue;
    } else if (is_chinese(c)) {
      kept.append(u' ').append(c).append(u' ');
    } else {
      kept.append(c);
    }
  }
  UErrorCode status = U_ZERO_ERROR;
  icu::UnicodeString composed = nfc.normalize(kept, status);
  check_data(U_SUCCESS(status), "ICU can't normalize the text: {}", u_errorName(status));
  std::string cleaned;
  composed.toLower(icu::Locale::getRoot()).toUTF8String(cleaned);
  return cleaned;
}

/// Where the literal that starts at `begin` ends, ignoring case; `begin` if it isn't there.
std::size_t literal_end(std::string_view text, std::size_t begin, std::string_view literal) {
  std::size_t end = begin;
  for (const char expected : literal) {
    if (end == text.size() || u_foldCase(next_code_point(text, end), U_FOLD_CASE_DEFAULT) != expected) return begin;
  }
  return end;
}

enum class Kind { kLetter, kNumber, kOther, kNone };

/// CLIP's pattern ignores case, so its "neither space nor letter nor number" also leaves out what folds to a letter
/// without being one: U+0345, which is in no word.
Kind kind_of(UChar32 c) {
  const auto category = U_GET_GC_MASK(c);
  if (category & U_GC_L_MASK) return Kind::kLetter;
  if (category & U_GC_N_MASK) return Kind::kNumber;
  const bool folds_to_letter = U_GET_GC_MASK(u_foldCase(c, U_FOLD_CASE_DEFAULT)) & U_GC_L_MASK;
  return c == ' ' || folds_to_letter ? Kind::kNone : Kind::kOther;
}

/// Where the match of CLIP's pattern that starts at `begin` ends; `begin` if none does. A match is a literal, a run of
/// letters, one number character, or a run of anything else but spaces.
std::size_t word_end(std::string_view text, std::size_t begin) {
  for (const auto literal : kLiterals) {
    if (const auto end = literal_end(text, begin, literal); end != begin) return end;
  }
  std::size_t end = begin;
  const Kind kind = kind_of(next_code_point(text, end));
  if (kind == Kind::kNone) return begin;
  while (kind != Kind::kNumber && end < text.size()) {
    std::size_t next = end;
    if (kind_of(next_code_point(text, next)) != kind) break;
    end = next;
  }
  return end;
}

void replace_all(std::string& text, std::string_view from, std::string_view to) {
  for (std::size_t at = text.find(from); at != std::string::npos; at = text.find(from, at + to.size()))
    text.replace(at, from.size(), to);
}

std::string_view trimmed(std::string_view text) {
  const auto begin = std::min(text.find_first_not_of(' '), text.size());
  return text.substr(begin, text.find_last_not_of(' ') + 1 - begin);
}

}  // namespace

struct CLIPTokenizer::Impl {
  using Merge = CLIPVocabulary::Merge;
  using AddedToken = std::pair<std::string, Id>;

  CLIPVocabulary vocabulary;
  const icu::Normalizer2& nfc;

  const Merge* find_merge(Id left, Id right) const {
    const auto entry = vocabulary.merges.find(CLIPVocabulary::pair_key(left, right));
    return entry == vocabulary.merges.end() ? nullptr : &entry->second;
  }

  /// Joins each occurrence of `best`, from the left. `merges[i]` is what joins `symbols[i]` and `symbols[i + 1]`.
  void join(const Merge* best, std::vector<Id>& symbols, std::vector<const Merge*>& merges) const {
    std::size_t size = 0;
    bool previous_joined = false;
    for (std::size_t i = 0; i < symbols.size(); ++size) {
      const bool joined = i < merges.size() && merges[i] == best;
      const Merge* unchanged = i > 0 ? merges[i - 1] : nullptr;
      symbols[size] = joined ? best->result : symbols[i];
      if (size > 0) {
        merges[size - 1] = joined || previous_joined ? find_merge(symbols[size - 1], symbols[size]) : unchanged;
      }
      previous_joined = joined;
      i += joined ? 2 : 1;
    }
    symbols.resize(size);
    merges.resize(size - 1);
  }

  /// Byte-pair encoding of one word: merges the pair of lowest rank until none is left.
  void append_word(std::string_view word, std::vector<std::int64_t>& ids) const {
    std::vector<Id> symbols;
    for (const char byte : word) symbols.push_back(vocabulary.byte_ids[static_cast<std::uint8_t>(byte)]);
    symbols.back() = vocabulary.last_byte_ids[static_cast<std::uint8_t>(word.back())];
    std::vector<const Merge*> merges;
    for (std::size_t i = 0; i + 1 < symbols.size(); ++i) merges.push_back(find_merge(symbols[i], symbols[i + 1]));
    for (;;) {
      const Merge* best = nullptr;
      for (const Merge* merge : merges) {
        if (merge && (!best || merge->rank < best->rank)) best = merge;
      }
      if (!best) break;
      join(best, symbols, merges);
    }
    for (const Id id : symbols) ids.push_back(id == CLIPVocabulary::kMissing ? vocabulary.unknown : id);
  }

  /// The added token that text starts with at `position`, the longest if there are several.
  const AddedToken* added_token_at(std::string_view text, std::size_t position) const {
    const auto rest = text.substr(position);
    const auto found =
        std::ranges::find_if(vocabulary.added_tokens, [&](const auto& token) { return rest.starts_with(token.first); });
    return found == vocabulary.added_tokens.end() ? nullptr : &*found;
  }

  bool is_added(const std::string& token) const {
    return std::ranges::find(vocabulary.added_tokens, token, &AddedToken::first) != vocabulary.added_tokens.end();
  }

  /// What vocab.json spells as `symbols`.
  std::string text_of(const std::string& symbols) const {
    std::string text;
    for (std::size_t begin = 0; begin < symbols.size();) {
      std::size_t end = begin;
      next_code_point(symbols, end);
      const auto symbol = symbols.substr(begin, end - begin);
      const auto byte = vocabulary.bytes.find(symbol);
      text += byte == vocabulary.bytes.end() ? symbol : std::string(1, byte->second);
      begin = end;
    }
    std::string valid;
    icu::UnicodeString::fromUTF8(text).toUTF8String(valid);
    replace_all(valid, kEndOfWord, " ");
    return std::string(trimmed(valid));
  }

  /// Ids of text between added tokens.
  void append_text(std::string_view raw, std::vector<std::int64_t>& ids) const {
    const std::string text = clean(raw, nfc);
    for (std::size_t begin = 0; begin < text.size();) {
      std::size_t end = word_end(text, begin);
      const auto word = std::string_view(text).substr(begin, end - begin);
      if (word == kStartOfText || word == kEndOfText) {
        ids.push_back(word == kStartOfText ? vocabulary.start_of_text : vocabulary.end_of_text);
      } else if (!word.empty()) {
        append_word(word, ids);
      } else {
        next_code_point(text, end);
      }
      begin = end;
    }
  }
};

CLIPTokenizer CLIPTokenizer::load(const std::filesystem::path& folder) {
  UErrorCode status = U_ZERO_ERROR;
  const auto* nfc = icu::Normalizer2::getNFCInstance(status);
  check_data(U_SUCCESS(status), "ICU has no NFC data: {}", u_errorName(status));
  return CLIPTokenizer(std::make_unique<Impl>(Impl{read_clip_vocabulary(folder), *nfc}));
}

CLIPTokenizer::CLIPTokenizer(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
CLIPTokenizer::~CLIPTokenizer() = default;
CLIPTokenizer::CLIPTokenizer(CLIPTokenizer&&) noexcept = default;
CLIPTokenizer& CLIPTokenizer::operator=(CLIPTokenizer&&) noexcept = default;

std::vector<std::int64_t> CLIPTokenizer::tokenize(std::string_view text) const {
  check_utf8(text);
  std::vector<std::int64_t> ids;
  std::size_t begin = 0;
  for (std::size_t position = 0; position < text.size();) {
    const auto* found = impl_->added_token_at(text, position);
    if (!found) {
      ++position;
      continue;
    }
    impl_->append_text(text.substr(begin, position - begin), ids);
    ids.push_back(found->second);
    begin = position += found->first.size();
  }
  impl_->append_text(text.substr(begin), ids);
  return ids;
}

std::vector<std::int64_t> CLIPTokenizer::prepare_for_model(std::vector<std::int64_t> ids) const {
  const auto& vocabulary = impl_->vocabulary;
  const auto length = static_cast<std::size_t>(vocabulary.max_length);
  ids.resize(std::min(ids.size(), length - 2));
  ids.insert(ids.begin(), vocabulary.start);
  ids.push_back(vocabulary.end);
  ids.resize(length, vocabulary.padding);
  return ids;
}

std::vector<std::int64_t> CLIPTokenizer::encode(std::string_view text) const {
  return prepare_for_model(tokenize(text));
}

std::string CLIPTokenizer::decode(const std::vector<std::int64_t>& ids) const {
  const auto& vocabulary = impl_->vocabulary;
  std::vector<std::string> texts;
  std::string symbols;
  const auto end_text = [&] {
    if (auto text = impl_->text_of(symbols); !text.empty()) texts.push_back(std::move(text));
    symbols.clear();
  };
  for (const auto id : ids) {
    if (const auto known = vocabulary.symbols.find(id); known != vocabulary.symbols.end()) {
      symbols += known->second;
      continue;
    }
    const auto added = std::ranges::find(vocabulary.added_tokens, id, [](const auto& token) { return token.second; });
    check_argument(added != vocabulary.added_tokens.end(), "the tokenizer has no token of id {}", id);
    end_text();
    texts.push_back(added->first);
  }
  end_text();
  return fmt::format("{}", fmt::join(texts, " "));
}

std::string CLIPTokenizer::maybe_convert_prompt(std::string_view prompt) const {
  std::vector<std::string> found;
  for (std::size_t position = 0; position < prompt.size();) {
    const auto* token = impl_->added_token_at(prompt, position);
    position += token ? token->first.size() : 1;
    if (token && std::ranges::find(found, token->first) == found.end()) found.push_back(token->first);
  }
  std::string converted(prompt);
  for (const auto& token : found) {
    std::string tokens = token;
    for (int i = 1; impl_->is_added(fmt::format("{}_{}", token, i)); ++i) tokens += fmt::format(" {}_{}", token, i);
    replace_all(converted, token, tokens);
  }
  return converted;
}

std::int64_t CLIPTokenizer::model_max_length() const {
  return impl_->vocabulary.max_length;
}

}  // namespace deepcache
