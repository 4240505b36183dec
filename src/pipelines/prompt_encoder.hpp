#pragma once

#include <torch/types.h>

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "models/model_package.hpp"
#include "models/text_encoder.hpp"

namespace deepcache {

/// What a UNet is told of prompts.
struct PromptEmbeddings {
  torch::Tensor states;  ///< [B, L, D]
  torch::Tensor pooled;  ///< [B, P]
};

/// The text encoders of a package, and how its family reads them: Stable Diffusion the last layer of one, SDXL the last
/// but one layer of two, side by side, and what the second one pools.
class PromptEncoder {
 public:
  PromptEncoder(const ModelPackage& package, torch::Device device);

  /// @param prompt_2   for the second encoder; none: the same
  /// @param clip_skip  how many layers earlier than usual the states are read
  PromptEmbeddings encode(const std::vector<std::string>& prompts, const std::optional<std::string>& prompt_2,
                          std::int64_t clip_skip) const;

  /// Of a negative prompt, [1, ...]; where none is given, what the family has for that.
  PromptEmbeddings encode_negative(const std::optional<std::string>& prompt,
                                   const std::optional<std::string>& prompt_2) const;

  /// @throws std::invalid_argument for text that isn't UTF-8, or more skipped layers than there are.
  void validate(const std::vector<std::string>& texts, std::int64_t clip_skip) const;

 private:
  std::vector<TextEncoder> encoders_;
  std::int64_t layer_;       // that is read without clip_skip: 1 is the last
  bool zeros_if_not_given_;  // the embeddings of no negative prompt
};

}  // namespace deepcache
