#include "models/prompt_weights.hpp"

#include <gmock/gmock.h>

#include <deepcache/deepcache.hpp>

#include "expect_error.hpp"

namespace deepcache::prompt_weights_test {
namespace {

struct Case {
  std::string prompt;
  std::vector<WeightedText> parts;
  std::string about;
};

// Those of Python's model of the same are in tests/data/prompts; here, what a reader wants to know first.
const std::vector<Case> kCases{
    {"a red heart", {{"a red heart", 1}}, "no brackets"},
    {"", {{"", 1}}, "an empty prompt is one part"},
    {"a (red) heart", {{"a ", 1}, {"red", 1.1}, {" heart", 1}}, "round brackets"},
    {"a [red] heart", {{"a ", 1}, {"red", 1 / 1.1}, {" heart", 1}}, "square brackets"},
    {"a (red:1.5) heart", {{"a ", 1}, {"red", 1.5}, {" heart", 1}}, "a weight"},
    {"((a) b)", {{"a", 1.1 * 1.1}, {" b", 1.1}}, "nested"},
    {"(un)(finished)", {{"unfinished", 1.1}}, "neighbours of one weight are one part"},
    {"(a:0)(b:-0.5)(c:+2)(d:.5)(e:3.)", {{"a", 0}, {"b", -0.5}, {"c", 2}, {"d", 0.5}, {"e", 3}}, "other numbers"},
    {R"(\(a\) \[b\] \\ \c)", {{R"((a) [b] \ c)", 1}}, "escapes; another backslash is left out"},
    {"(a", {{"a", 1.1}}, "not closed"},
    {"[a (b", {{"a ", 1 / 1.1}, {"b", 1.1 * (1 / 1.1)}}, "two that aren't closed"},
    {"a) b] c:1.5)", {{"a) b] c:1.5)", 1}}, "nothing to close"},
    {"(a:b) (c:) (d: 2) (e:1e3)",
     {{"a:b", 1.1}, {" ", 1}, {"c:", 1.1}, {" ", 1}, {"d: 2", 1.1}, {" ", 1}, {"e:1e3", 1.1}},
     "no weights"},
    {"[a:1.5]", {{"a:1.5", 1 / 1.1}}, "square brackets take no weight"},
    {"()[](:2)", {{"", 1}}, "nothing in brackets"},
};

TEST(PromptWeights, Table) {
  for (const auto& entry : kCases) EXPECT_EQ(parse_prompt_weights(entry.prompt), entry.parts) << entry.about;
}

TEST(PromptWeights, WeightsThatAreNoNumbers) {
  for (const auto& weight : std::vector<std::string>{"1.2.3", ".", "-.", "..5", std::string(400, '9')})
    expect_error<std::invalid_argument>([&] { parse_prompt_weights("(a:" + weight + ")"); },
                                        {"must be a number, such as 1.3", "got " + weight});
  for (const auto* prompt : {"(a:1001)", "((a:900):2)", "(b:-1001)"})
    expect_error<std::invalid_argument>([&] { parse_prompt_weights(prompt); }, {"within -1000 and 1000, got"});
  EXPECT_NO_THROW(parse_prompt_weights("a:1.2.3)")) << "closes nothing, so it is text";
}

class LongPrompts : public testing::Test {
 protected:
  torch::Tensor latents(const std::string& prompt, const StableDiffusionParams& options) {
    auto params = options;
    params.num_inference_steps = 1;
    params.height = params.width = 64;
    params.decode = false;
    return pipe(prompt, params).latents;
  }

  StableDiffusionPipeline pipe =
      StableDiffusionPipeline::load(std::filesystem::path(DEEPCACHE_TEST_DATA) / "packages/one_layer");
};

TEST_F(LongPrompts, WithoutBracketsAndAboveTheLimitNothingChanges) {
  const auto plain = latents("a red heart", {});
  EXPECT_TRUE(latents("a red heart", {.prompt_weighting = true, .max_prompt_chunks = 4}).equal(plain));
  EXPECT_FALSE(latents("a (red:1.5) heart", {.prompt_weighting = true}).equal(plain));
  EXPECT_FALSE(latents("a red heart", {.negative_prompt = "(blue:1.5)", .prompt_weighting = true})
                   .equal(latents("a red heart", {.negative_prompt = "(blue:1.4)", .prompt_weighting = true})));
  EXPECT_FALSE(latents("a (red:1.5) heart", {}).equal(latents("a (red:1.4) heart", {}))) << "brackets are text";
}

TEST_F(LongPrompts, ChunksAreReadAsFarAsTheyAreAllowed) {
  std::string prompt = "cat ";
  for (int i = 0; i < 22; ++i) prompt += "heart ";
  const auto longer = prompt + "panda ";  // the 24th token of a model that has 22 in a chunk
  EXPECT_TRUE(latents(prompt, {}).equal(latents(longer, {})));
  EXPECT_FALSE(latents(prompt, {.max_prompt_chunks = 2}).equal(latents(longer, {.max_prompt_chunks = 2})));
  EXPECT_TRUE(latents(longer, {.max_prompt_chunks = 2}).equal(latents(longer, {.max_prompt_chunks = 9})));
  EXPECT_FALSE(latents("cat", {.negative_prompt = prompt, .max_prompt_chunks = 2})
                   .equal(latents("cat", {.negative_prompt = longer, .max_prompt_chunks = 2})))
      << "a negative prompt may be the longer one";
}

TEST_F(LongPrompts, BadOptions) {
  expect_error<std::invalid_argument>([&] { latents("a", {.max_prompt_chunks = 0}); },
                                      {"max_prompt_chunks must be 1 or above, got 0"});
  const StableDiffusionParams weighting{.prompt_weighting = true};
  expect_error<std::invalid_argument>([&] { pipe.validate({"(a:1..2)"}, weighting); }, {"must be a number", "1..2"});
  auto negative = weighting;
  negative.negative_prompt = "(a:1..2)";
  expect_error<std::invalid_argument>([&] { pipe.validate({"a"}, negative); }, {"must be a number", "1..2"});
  EXPECT_NO_THROW(pipe.validate({"(a:1..2)"}, {}));
}

}  // namespace
}  // namespace deepcache::prompt_weights_test
