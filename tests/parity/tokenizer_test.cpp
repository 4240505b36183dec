// Ids, and the text they stand for, must equal those of transformers' slow CLIPTokenizer, recorded by
// tools/references/tokenizer.py.

#include "deepcache/tokenizer.hpp"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <set>
#include <string>

namespace deepcache::tokenizer_test {
namespace {

using nlohmann::json;
using Ids = std::vector<std::int64_t>;

json recorded() {
  std::ifstream stream(DEEPCACHE_TEST_DATA "/tokenizer/cases.json");
  return json::parse(stream);
}

void expect_same_ids(const CLIPTokenizer& tokenizer, const json& cases) {
  for (const json& entry : cases) {
    const auto text = entry.at("text").get<std::string>();
    const std::string about = entry.at("about").get<std::string>() + ": " + json(text).dump(-1, ' ', true);
    EXPECT_EQ(tokenizer.tokenize(text), entry.at("ids").get<Ids>()) << about;
    EXPECT_EQ(tokenizer.encode(text), entry.at("encoded").get<Ids>()) << about;
    EXPECT_EQ(tokenizer.decode(tokenizer.tokenize(text)), entry.at("decoded").get<std::string>()) << about;
  }
}

TEST(TokenizerParity, EmbeddedModel) {
  const auto tokenizer = CLIPTokenizer::load(DEEPCACHE_MODELS "/emoji/tokenizer");
  const json cases = recorded().at("emoji");
  ASSERT_GE(cases.size(), 400U);
  expect_same_ids(tokenizer, cases);
}

// Stable Diffusion 2 pads with "!", lists no added tokens and so leaves the special tokens to special_tokens_map.json.
TEST(TokenizerParity, PadTokenOtherThanEndToken) {
  const auto tokenizer = CLIPTokenizer::load(DEEPCACHE_TEST_DATA "/tokenizer/pad_token");
  const json cases = recorded().at("pad_token");
  ASSERT_GE(cases.size(), 300U);
  expect_same_ids(tokenizer, cases);
}

// A reminder for whoever records anew: without these the comparison above would say little.
TEST(TokenizerParity, RecordedCasesCoverTheDifferencesToTheFastTokenizer) {
  std::set<std::string> kinds;
  const json cases = recorded().at("emoji");
  for (const json& entry : cases) {
    if (entry.contains("fast_ids")) kinds.insert(entry.at("about"));
  }
  for (const char* kind : {"control characters", "format characters", "private, unassigned and noncharacters",
                           "chinese, japanese, korean", "case", "composition", "contractions", "special tokens"}) {
    EXPECT_TRUE(kinds.contains(kind)) << kind;
  }
}

}  // namespace
}  // namespace deepcache::tokenizer_test
