#include "deepcache/tokenizer.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <functional>
#include <nlohmann/json.hpp>
#include <random>
#include <sstream>
#include <stdexcept>
#include <string>
#include <thread>

#include "expect_error.hpp"

namespace deepcache::tokenizer_test {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using Ids = std::vector<std::int64_t>;

const fs::path kPadToken = DEEPCACHE_TEST_DATA "/tokenizer/pad_token";  // pads with "!", 16 ids

/// A copy of a small tokenizer folder for each test to damage.
class TokenizerFolder : public testing::Test {
 protected:
  TokenizerFolder() {
    folder_ = fs::path(testing::TempDir()) / ("deepcache_tokenizer_" + std::to_string(std::random_device()()));
    fs::copy(kPadToken, folder_);
    fs::permissions(folder_, fs::perms::owner_all, fs::perm_options::add);
    for (const auto& entry : fs::directory_iterator(folder_)) {
      fs::permissions(entry.path(), fs::perms::owner_write, fs::perm_options::add);
    }
  }
  ~TokenizerFolder() override {
    std::error_code ignored;
    fs::remove_all(folder_, ignored);
  }

  void write(const std::string& name, const std::string& content) const {
    std::ofstream(folder_ / name, std::ios::binary) << content;
  }

  void edit(const std::string& name, const std::function<void(json&)>& change) const {
    json content = json::parse(std::ifstream(folder_ / name));
    change(content);
    write(name, content.dump());
  }

  void append(const std::string& name, const std::string& content) const {
    std::ofstream(folder_ / name, std::ios::binary | std::ios::app) << content;
  }

  /// Expects load() to throw std::runtime_error with all parts in its message.
  void expect_rejected(const std::vector<std::string>& parts) const {
    try {
      CLIPTokenizer::load(folder_);
      ADD_FAILURE() << "loaded, expected an error about " << parts.front();
    } catch (const std::runtime_error& error) {
      for (const auto& part : parts) EXPECT_NE(std::string(error.what()).find(part), std::string::npos) << error.what();
    }
  }

  std::int64_t max_length() const { return CLIPTokenizer::load(folder_).model_max_length(); }

  fs::path folder_;
};

TEST_F(TokenizerFolder, MissingFilesAreNamed) {
  for (const char* name : {"vocab.json", "merges.txt"}) {
    const std::string content = (std::ostringstream() << std::ifstream(folder_ / name).rdbuf()).str();
    fs::remove(folder_ / name);
    expect_rejected({(folder_ / name).string()});
    write(name, content);
  }
  EXPECT_NO_THROW(CLIPTokenizer::load(folder_));
  EXPECT_THROW(CLIPTokenizer::load(folder_ / "nowhere"), std::runtime_error);
}

TEST_F(TokenizerFolder, MalformedVocab) {
  write("vocab.json", "{\"a\": 1,");
  expect_rejected({"vocab.json", "JSON"});
  write("vocab.json", "[\"a\"]");
  expect_rejected({"vocab.json", "object", "array"});
  for (const char* id : {"-1", "1.5", "\"1\"", "null", "2147483648"}) {
    write("vocab.json", "{\"a\": " + std::string(id) + "}");
    expect_rejected({"vocab.json", "'a'", "from 0 to 2147483647", id});
  }
  write("vocab.json", R"({"a": 7, "b": 7})");
  expect_rejected({"vocab.json", "id 7"});
}

TEST_F(TokenizerFolder, MalformedMerges) {
  for (const char* line : {"hello", "h e l", " h e", "h  e", "h e "}) {
    write("merges.txt", "#version: 0.2\nh e\n" + std::string(line) + "\nc a\n");
    expect_rejected({"merges.txt", "line 3", "two symbols", line});
  }
  write("merges.txt", " \n\n");
  expect_rejected({"merges.txt", "empty"});
}

TEST_F(TokenizerFolder, VocabAndMergesDisagree) {
  append("merges.txt", "zz e\n");
  expect_rejected({"disagree", "merges.txt", "'zz e'", "no 'zz'"});
  write("merges.txt", "#version: 0.2\ne zz\n");
  expect_rejected({"disagree", "line 2", "no 'zz'"});
  write("merges.txt", "#version: 0.2\nq x\n");
  expect_rejected({"disagree", "line 2", "no 'qx'"});
}

TEST_F(TokenizerFolder, MissingSpecialTokens) {
  for (const char* token : {"<|startoftext|>", "<|endoftext|>", "!"}) {
    const json vocab = json::parse(std::ifstream(folder_ / "vocab.json"));
    edit("vocab.json", [&](json& content) { content.erase(token); });
    expect_rejected({"vocab.json", std::string("no '") + token + "'"});
    write("vocab.json", vocab.dump());
  }
  edit("special_tokens_map.json", [](json& map) { map["unk_token"] = "[UNK]"; });
  expect_rejected({"vocab.json", "no '[UNK]'", "unk_token"});
}

TEST_F(TokenizerFolder, MalformedSettings) {
  for (const json& token : {json(), json(3), json(""), json::object()}) {
    edit("special_tokens_map.json", [&](json& map) { map["bos_token"] = token; });
    expect_rejected({"bos_token", "must be a token", token.dump()});
  }
  edit("special_tokens_map.json", [](json& map) { map["bos_token"] = {{"content", "!"}, {"lstrip", true}}; });
  expect_rejected({"bos_token", "lstrip"});
  write("special_tokens_map.json", "[]");
  expect_rejected({"special_tokens_map.json", "object"});
  write("special_tokens_map.json", "{}");
  write("added_tokens.json", R"({"<cat-toy>": "x"})");
  expect_rejected({"added_tokens.json", "<cat-toy>"});
  write("added_tokens.json", R"({"!": 1000})");
  expect_rejected({"added_tokens.json", "'!'", "1000"});
  edit("tokenizer_config.json", [](json& config) { config["added_tokens_decoder"] = {{"x", "<cat-toy>"}}; });
  expect_rejected({"tokenizer_config.json", "<cat-toy>"});
  edit("tokenizer_config.json", [](json& config) { config["added_tokens_decoder"] = 3; });
  expect_rejected({"added_tokens_decoder", "number"});
  write("tokenizer_config.json", "{");
  expect_rejected({"tokenizer_config.json", "JSON"});
}

TEST_F(TokenizerFolder, UnsupportedSettings) {
  const json config = json::parse(std::ifstream(folder_ / "tokenizer_config.json"));
  const json unsupported = {{"padding_side", "left"}, {"truncation_side", "left"}, {"split_special_tokens", true}};
  for (const auto& [key, value] : unsupported.items()) {
    json changed = config;
    changed[key] = value;
    write("tokenizer_config.json", changed.dump());
    expect_rejected({key, value.dump()});
  }
}

TEST_F(TokenizerFolder, ModelMaxLength) {
  EXPECT_EQ(max_length(), 16);
  for (const char* length : {"1000000000000000019884624838656", "1e30", "null"}) {
    write("tokenizer_config.json", "{\"model_max_length\": " + std::string(length) + "}");
    EXPECT_EQ(max_length(), 77) << length;
  }
  for (const char* length : {"2", "65536"}) {
    write("tokenizer_config.json", "{\"model_max_length\": " + std::string(length) + "}");
    EXPECT_EQ(max_length(), std::stoi(length));
  }
  for (const char* length : {"1", "0", "-77", "65537", "77.5", "\"77\"", "true", "[77]"}) {
    write("tokenizer_config.json", "{\"model_max_length\": " + std::string(length) + "}");
    expect_rejected({"model_max_length", "from 2 to 65536", length});
  }
}

TEST_F(TokenizerFolder, VocabAndMergesAreEnough) {
  for (const char* name : {"tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"}) {
    fs::remove(folder_ / name);
  }
  const auto tokenizer = CLIPTokenizer::load(folder_);
  const auto ids = tokenizer.encode("hello");
  EXPECT_EQ(ids.size(), 77U);
  EXPECT_EQ(ids.back(), ids[2]) << "the padding is the end token unless a file says otherwise";
}

TEST_F(TokenizerFolder, LineEndsOfWindows) {
  const auto expected = CLIPTokenizer::load(folder_).tokenize("hello world");
  write("merges.txt", "#version: 0.2\r\nh e\r\nl l\r\nhe ll\r\nhell o</w>\r\nw o\r\nwo r\r\nl d</w>\r\nwor ld</w>\r\n");
  EXPECT_EQ(CLIPTokenizer::load(folder_).tokenize("hello world"), expected);
}

TEST_F(TokenizerFolder, AddedTokensOfTheConfig) {
  edit("tokenizer_config.json", [](json& config) {
    config["added_tokens_decoder"] = {{"900", {{"content", "<cat>"}}}, {"901", {{"content", "<cat>s"}}}};
    config["additional_special_tokens"] = {"<cat>", "?"};
  });
  const auto tokenizer = CLIPTokenizer::load(folder_);
  EXPECT_EQ(tokenizer.tokenize("<cat>"), Ids({900}));
  EXPECT_EQ(tokenizer.tokenize("<cat><cat>s<cat>"), Ids({900, 901, 900})) << "the longest token wins";
  EXPECT_EQ(tokenizer.tokenize("???").size(), 3U) << "special tokens are cut out one by one";
  EXPECT_EQ(tokenizer.encode("").back(), tokenizer.encode("")[1]) << "special_tokens_map.json isn't read";
}

TEST_F(TokenizerFolder, TextualInversionsOfSeveralVectorsAreWrittenOut) {
  write("added_tokens.json", R"({"<cat>": 900, "<cat>_1": 901, "<cat>_2": 902, "<sun>": 903, "<sun>_2": 904})");
  const auto tokenizer = CLIPTokenizer::load(folder_);
  EXPECT_EQ(tokenizer.maybe_convert_prompt("a <cat>, <cat>!"), "a <cat> <cat>_1 <cat>_2, <cat> <cat>_1 <cat>_2!");
  EXPECT_EQ(tokenizer.maybe_convert_prompt("(<cat>:1.2)"), "(<cat> <cat>_1 <cat>_2:1.2)");
  EXPECT_EQ(tokenizer.maybe_convert_prompt("<sun> <cat>_1"), "<sun> <cat>_1") << "one vector, and one that is named";
  EXPECT_EQ(tokenizer.maybe_convert_prompt("<CAT> hello"), "<CAT> hello");
  EXPECT_EQ(tokenizer.maybe_convert_prompt(""), "");
  EXPECT_EQ(tokenizer.tokenize(tokenizer.maybe_convert_prompt("<cat>")), Ids({900, 901, 902}));
  EXPECT_EQ(tokenizer.decode({902, tokenizer.tokenize("hello")[0], 903}), "<cat>_2 hello <sun>");
  expect_error<std::invalid_argument>([&] { tokenizer.decode({905}); }, {"no token of id 905"});
}

TEST(Tokenizer, DecodesWhereACharacterWasCut) {
  const auto tokenizer = CLIPTokenizer::load(kPadToken);
  auto ids = tokenizer.tokenize("hello \xf0\x9f\x98\x80");  // U+1F600
  EXPECT_EQ(tokenizer.decode(ids), "hello \xf0\x9f\x98\x80");
  ids.pop_back();
  EXPECT_EQ(tokenizer.decode(ids), "hello \xef\xbf\xbd") << "U+FFFD";
  EXPECT_EQ(tokenizer.decode({}), "");
}

TEST(Tokenizer, EncodeCutsAndPads) {
  const auto tokenizer = CLIPTokenizer::load(kPadToken);
  const auto specials = tokenizer.tokenize("<|startoftext|><|endoftext|>!");
  ASSERT_EQ(specials.size(), 3U);
  ASSERT_NE(specials[1], specials[2]);
  std::string text;
  for (std::size_t words = 0; words < 20; ++words) {
    const auto ids = tokenizer.tokenize(text);
    ASSERT_EQ(ids.size(), words);
    const auto encoded = tokenizer.encode(text);
    ASSERT_EQ(encoded.size(), 16U);
    EXPECT_EQ(encoded[0], specials[0]);
    const std::size_t kept = std::min<std::size_t>(words, 14);
    EXPECT_TRUE(std::equal(ids.begin(), ids.begin() + static_cast<std::ptrdiff_t>(kept), encoded.begin() + 1));
    EXPECT_EQ(encoded[kept + 1], specials[1]);
    for (std::size_t i = kept + 2; i < encoded.size(); ++i) EXPECT_EQ(encoded[i], specials[2]);
    text += "hello ";
  }
}

TEST(Tokenizer, InvalidUtf8IsTheCallersMistake) {
  const auto tokenizer = CLIPTokenizer::load(kPadToken);
  const std::vector<std::string> invalid = {
      "\x80",         "ab\xff",           "\xc3",         "\xc3(",
      "\xe2\x82",     "\xc0\x80",         "\xed\xa0\x80", "\xf0\x9f",
      "\xe0\x80\xaf", "\xf4\x90\x80\x80", "\xf5",         "caf\xe9 <|endoftext|>"};
  for (const auto& text : invalid) {
    EXPECT_THROW(tokenizer.tokenize(text), std::invalid_argument) << testing::PrintToString(text);
    EXPECT_THROW(tokenizer.encode("heart " + text), std::invalid_argument) << testing::PrintToString(text);
  }
  try {
    tokenizer.tokenize("ab\xff");
  } catch (const std::invalid_argument& error) {
    EXPECT_NE(std::string(error.what()).find("byte 2 of 3"), std::string::npos) << error.what();
  }
  EXPECT_EQ(tokenizer.tokenize("hello").size(), 1U) << "usable after an exception";
}

TEST(Tokenizer, MovesAndReplaces) {
  auto tokenizer = CLIPTokenizer::load(kPadToken);
  const auto ids = tokenizer.tokenize("hello world");
  auto moved = std::move(tokenizer);
  EXPECT_EQ(moved.tokenize("hello world"), ids);
  moved = CLIPTokenizer::load(kPadToken);
  EXPECT_EQ(moved.tokenize("hello world"), ids);
}

// A word's cost must not grow with the square of its length: this would take minutes.
TEST(Tokenizer, VeryLongWord) {
  const auto tokenizer = CLIPTokenizer::load(kPadToken);
  // The vocabulary merges "aa", "aaaa" and "aaa</w>".
  EXPECT_EQ(tokenizer.tokenize(std::string(400003, 'a')).size(), 100001U);
}

TEST(Tokenizer, ThreadsShareOne) {
  const auto tokenizer = CLIPTokenizer::load(kPadToken);
  const std::vector<std::string> texts = {"hello world", "IT'S a \xe7\x8c\xab", "\xce\x91\xce\xa3 \xf0\x9f\x98\x80!",
                                          "<|endoftext|> ~ 12"};
  std::vector<Ids> expected;
  for (const auto& text : texts) expected.push_back(tokenizer.encode(text));
  std::vector<int> wrong(8, 0);
  std::vector<std::thread> threads;
  for (std::size_t thread = 0; thread < wrong.size(); ++thread)
    threads.emplace_back([&, thread] {
      for (std::size_t i = 0; i < 500; ++i) {
        const std::size_t which = (i + thread) % texts.size();
        if (tokenizer.encode(texts[which]) != expected[which]) ++wrong[thread];
      }
    });
  for (auto& thread : threads) thread.join();
  EXPECT_EQ(wrong, std::vector<int>(8, 0));
}

}  // namespace
}  // namespace deepcache::tokenizer_test
