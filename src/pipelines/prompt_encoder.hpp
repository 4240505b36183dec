#pragma once

#include <torch/types.h>

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "deepcache/stable_diffusion.hpp"
#include "models/model_package.hpp"
#include "models/text_encoder.hpp"

namespace deepcache {

/// What a UNet is told of prompts.
struct PromptEmbeddings {
  torch::Tensor states;  ///< [B, L, D]
  torch::Tensor pooled;  ///< [B, P]
};

struct EncodedPrompts {
  PromptEmbeddings prompts;
  std::optional<PromptEmbeddings> negative;  ///< of one prompt, of the same L; none without guidance
};

/// The text encoders of a package, and how its family reads them: Stable Diffusion the last layer of one, SDXL the last
/// but one layer of two, side by side, and what the second one pools.
class PromptEncoder {
 public:
  PromptEncoder(const ModelPackage& package, torch::Device device);

  /// Encodes prompts for `resolve`d params, and the negative prompt if there is guidance; where none is given, what the
  /// family has for that. All get as many chunks of tokens as the longest needs, up to params.max_prompt_chunks.
  EncodedPrompts encode(const std::vector<std::string>& prompts, const StableDiffusionParams& params) const;

  /// @throws std::invalid_argument for text that isn't UTF-8, weights that can't be, more skipped layers than there
  /// are, less than one chunk, or second prompts that no encoder reads.
  void validate(const std::vector<std::string>& prompts, const StableDiffusionParams& params) const;

 private:
  using Tokens = std::vector<std::vector<PromptTokens>>;  // for each encoder, of each prompt

  Tokens tokenize(const std::vector<std::string>& prompts, const std::optional<std::string>& prompt_2,
                  bool weighting) const;
  Tokens tokenize_negative(const StableDiffusionParams& params) const;
  std::int64_t chunks_needed(const Tokens& tokens) const;
  void warn_of_cut(const Tokens& tokens, std::int64_t chunks, const std::string& name, bool has_second) const;
  PromptEmbeddings encode(const Tokens& tokens, std::int64_t chunks, std::int64_t clip_skip, bool weighting) const;

  std::vector<TextEncoder> encoders_;
  std::int64_t layer_;       // that is read without clip_skip: 1 is the last
  bool zeros_if_not_given_;  // the embeddings of no negative prompt
};

}  // namespace deepcache
