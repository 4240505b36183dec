#include "pipelines/prompt_encoder.hpp"

#include <algorithm>

#include "error.hpp"

namespace deepcache {
namespace {

/// Multiplies each token's states [B, L, D] by its weight [B, L], then all of a prompt's by what restores their mean.
torch::Tensor weigh(const torch::Tensor& states, const torch::Tensor& weights) {
  const auto mean = [](const torch::Tensor& values) {
    return values.to(torch::kFloat).mean({-2, -1}, /*keepdim=*/true).to(values.scalar_type());
  };
  const auto weighted = states * weights.to(states.scalar_type()).unsqueeze(-1);
  return weighted * (mean(states) / mean(weighted));
}

}  // namespace

PromptEncoder::PromptEncoder(const ModelPackage& package, torch::Device device)
    : layer_(package.family() == "stable-diffusion-xl" ? 2 : 1),
      zeros_if_not_given_(package.read("model_index.json", [](const ConfigReader& config) {
        return config.boolean("force_zeros_for_empty_prompt", false);
      })) {
  for (const char* suffix : {"", "_2"})
    if (package.has(std::string("text_encoder") + suffix + "/model.pt"))
      encoders_.emplace_back(package, suffix, device);
  check_data(!encoders_.empty(), "the package has no text encoder");
}

PromptEncoder::Tokens PromptEncoder::tokenize(const std::vector<std::string>& prompts,
                                              const std::optional<std::string>& prompt_2, bool weighting) const {
  Tokens tokens;
  for (const auto& encoder : encoders_) {
    const bool second = !tokens.empty() && prompt_2;
    auto& each = tokens.emplace_back();
    for (const auto& prompt : prompts) each.push_back(encoder.tokenize(second ? *prompt_2 : prompt, weighting));
  }
  return tokens;
}

PromptEncoder::Tokens PromptEncoder::tokenize_negative(const StableDiffusionParams& params) const {
  return tokenize({params.negative_prompt.value_or("")}, params.negative_prompt_2, params.prompt_weighting);
}

std::int64_t PromptEncoder::chunks_needed(const Tokens& tokens) const {
  std::int64_t chunks = 1;
  for (std::size_t i = 0; i < encoders_.size(); ++i) {
    const auto room = encoders_[i].chunk_room();
    for (const auto& prompt : tokens[i])
      chunks = std::max(chunks, (static_cast<std::int64_t>(prompt.ids.size()) + room - 1) / room);
  }
  return chunks;
}

void PromptEncoder::warn_of_cut(const Tokens& tokens, std::int64_t chunks, const std::string& name,
                                bool has_second) const {
  for (const auto& prompt : tokens.front()) encoders_.front().warn_of_cut(prompt, chunks, name);
  if (has_second && encoders_.size() == 2)
    for (const auto& prompt : tokens.back()) encoders_.back().warn_of_cut(prompt, chunks, "second " + name);
}

PromptEmbeddings PromptEncoder::encode(const Tokens& tokens, std::int64_t chunks, std::int64_t clip_skip,
                                       bool weighting) const {
  PromptEmbeddings embeddings;
  std::vector<torch::Tensor> states;
  for (std::size_t i = 0; i < encoders_.size(); ++i) {
    const auto output = encoders_[i](tokens[i], chunks);
    const auto layer = output.hidden_states[-layer_ - clip_skip];
    states.push_back(weighting ? weigh(layer, output.weights) : layer);
    embeddings.pooled = output.pooled;  // the last encoder's counts
  }
  embeddings.states = torch::cat(states, -1);
  return embeddings;
}

EncodedPrompts PromptEncoder::encode(const std::vector<std::string>& prompts,
                                     const StableDiffusionParams& params) const {
  const auto tokens = tokenize(prompts, params.prompt_2, params.prompt_weighting);
  const bool guided = *params.guidance_scale > 1;
  const auto negative_tokens = guided ? tokenize_negative(params) : Tokens(encoders_.size());
  const auto chunks =
      std::min(params.max_prompt_chunks, std::max(chunks_needed(tokens), chunks_needed(negative_tokens)));
  warn_of_cut(tokens, chunks, "prompt", params.prompt_2.has_value());
  if (guided) warn_of_cut(negative_tokens, chunks, "negative prompt", params.negative_prompt_2.has_value());
  EncodedPrompts result{.prompts = encode(tokens, chunks, params.clip_skip, params.prompt_weighting), .negative = {}};
  if (!guided) return result;
  result.negative = encode(negative_tokens, chunks, 0, params.prompt_weighting);  // Python skips no layers here either
  if (!params.negative_prompt && zeros_if_not_given_) {
    result.negative->states.zero_();
    result.negative->pooled.zero_();
  }
  return result;
}

void PromptEncoder::validate(const std::vector<std::string>& prompts, const StableDiffusionParams& params) const {
  for (const auto& encoder : encoders_) {
    const auto most = encoder.num_layers() + 1 - layer_;
    check_argument(params.clip_skip >= 0 && params.clip_skip <= most,
                   "clip_skip must be 0 to {} for this model, got {}", most, params.clip_skip);
  }
  check_argument(params.max_prompt_chunks >= 1, "max_prompt_chunks must be 1 or above, got {}",
                 params.max_prompt_chunks);
  check_argument(encoders_.size() == 2 || !(params.prompt_2 || params.negative_prompt_2),
                 "prompt_2 and negative_prompt_2 are a second text encoder's; this model has one");
  tokenize(prompts, params.prompt_2, params.prompt_weighting);
  tokenize_negative(params);
}

}  // namespace deepcache
