// Long and weighted prompts against a Python model of them on the live text encoders, recorded by
// tools/references/prompts.py.

#include <gtest/gtest.h>

#include <deepcache/deepcache.hpp>
#include <functional>
#include <map>
#include <nlohmann/json.hpp>

#include "models/prompt_weights.hpp"
#include "pipelines/prompt_encoder.hpp"
#include "recorded.hpp"

namespace deepcache::prompt_test {
namespace {

const std::filesystem::path kData = DEEPCACHE_TEST_DATA;

TEST(PromptParity, BracketsAreReadAsPythonReadsThem) {
  const auto recorded = read_json(kData / "prompts/weights.json");
  ASSERT_GE(recorded.at("cases").size(), 90U);
  for (const auto& entry : recorded.at("cases")) {
    const auto prompt = entry.at("prompt").get<std::string>();
    if (entry.at("parts").is_null()) {
      EXPECT_THROW(parse_prompt_weights(prompt), std::invalid_argument) << prompt;
      continue;
    }
    std::vector<WeightedText> expected;
    for (const auto& part : entry.at("parts")) expected.push_back({.text = part.at(0), .weight = part.at(1)});
    EXPECT_EQ(parse_prompt_weights(prompt), expected) << prompt;
  }
}

StableDiffusionParams params_of(const Recorded& options) {
  StableDiffusionParams params{.guidance_scale = 7.5};
  const std::map<std::string, std::function<void(const char*)>> readers{
      {"prompt_weighting", [&](const char* key) { params.prompt_weighting = options.boolean(key); }},
      {"max_prompt_chunks", [&](const char* key) { params.max_prompt_chunks = options.integer(key); }},
      {"clip_skip", [&](const char* key) { params.clip_skip = options.integer(key); }},
      {"negative_prompt", [&](const char* key) { params.negative_prompt = options.text(key); }},
      {"prompt_2", [&](const char* key) { params.prompt_2 = options.text(key); }},
      {"negative_prompt_2", [&](const char* key) { params.negative_prompt_2 = options.text(key); }},
  };
  for (const auto& key : options.keys()) readers.at(key)(key.c_str());
  return params;
}

void expect_near(const torch::Tensor& actual, const torch::Tensor& expected, const std::string& what) {
  ASSERT_EQ(actual.sizes(), expected.sizes()) << what;
  ASSERT_EQ(actual.scalar_type(), expected.scalar_type()) << what;
  EXPECT_LE((actual - expected).norm().item<double>(), 1e-4 * expected.norm().item<double>()) << what;
}

TEST(PromptParity, Embeddings) {
  std::map<std::string, PromptEncoder> encoders;
  const auto cases = Recorded::load(kData / "prompts/embeddings.pt").list("cases");
  ASSERT_GE(cases.size(), 12U);
  for (const auto& recorded : cases) {
    const auto variant = recorded.text("variant");
    const auto& encoder =
        encoders.try_emplace(variant, ModelPackage(kData / "packages" / variant), torch::kCPU).first->second;
    std::vector<std::string> prompts;
    for (const c10::IValue& prompt : recorded.at("prompts").toListRef()) prompts.push_back(prompt.toStringRef());
    SCOPED_TRACE(variant + ": " + prompts[0]);
    const auto params = params_of(Recorded(recorded.at("options")));
    encoder.validate(prompts, params);
    const torch::NoGradGuard no_grad;
    const auto encoded = encoder.encode(prompts, params);
    ASSERT_TRUE(encoded.negative);
    expect_near(encoded.prompts.states, recorded.tensor("prompt_embeds"), "prompts");
    expect_near(encoded.negative->states, recorded.tensor("negative_prompt_embeds"), "negative prompt");
    if (!recorded.has("pooled_prompt_embeds")) continue;
    expect_near(encoded.prompts.pooled, recorded.tensor("pooled_prompt_embeds"), "pooled");
    expect_near(encoded.negative->pooled, recorded.tensor("negative_pooled_prompt_embeds"), "pooled, negative");
  }
}

}  // namespace
}  // namespace deepcache::prompt_test
