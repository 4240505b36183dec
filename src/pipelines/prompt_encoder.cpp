#include "pipelines/prompt_encoder.hpp"

#include "error.hpp"

namespace deepcache {

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

PromptEmbeddings PromptEncoder::encode(const std::vector<std::string>& prompts,
                                       const std::optional<std::string>& prompt_2, std::int64_t clip_skip) const {
  PromptEmbeddings embeddings;
  std::vector<torch::Tensor> states;
  for (const auto& encoder : encoders_) {
    const bool second = !states.empty() && prompt_2;
    const auto output = encoder(second ? std::vector(prompts.size(), *prompt_2) : prompts);
    states.push_back(output.hidden_states[-layer_ - clip_skip]);
    embeddings.pooled = output.pooled;  // the last encoder's counts
  }
  embeddings.states = torch::cat(states, -1);
  return embeddings;
}

PromptEmbeddings PromptEncoder::encode_negative(const std::optional<std::string>& prompt,
                                                const std::optional<std::string>& prompt_2) const {
  auto embeddings = encode({prompt.value_or("")}, prompt_2, 0);  // Python skips no layers here either
  if (!prompt && zeros_if_not_given_) {
    embeddings.states.zero_();
    embeddings.pooled.zero_();
  }
  return embeddings;
}

void PromptEncoder::validate(const std::vector<std::string>& texts, std::int64_t clip_skip) const {
  for (const auto& encoder : encoders_) {
    const auto most = encoder.num_layers() + 1 - layer_;
    check_argument(clip_skip >= 0 && clip_skip <= most, "clip_skip must be 0 to {} for this model, got {}", most,
                   clip_skip);
    for (const auto& text : texts) encoder.tokenizer().tokenize(text);
  }
}

}  // namespace deepcache
