#pragma once

#include <torch/types.h>

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "core/torchscript.hpp"
#include "deepcache/tokenizer.hpp"
#include "models/model_package.hpp"

namespace deepcache {

/// A prompt's tokens, without start, end and padding, and what the states of each are multiplied by.
struct PromptTokens {
  std::vector<std::int64_t> ids;
  std::vector<double> weights;
};

/// A CLIP text encoder, and the tokenizer whose ids it reads.
class TextEncoder {
 public:
  /// L is tokens of all chunks, their start and end tokens and padding too.
  struct Output {
    torch::Tensor hidden_states;  ///< [num_layers() + 1, B, L, D]: the embeddings, then what each layer gives
    torch::Tensor pooled;         ///< [B, P], of the first chunk
    torch::Tensor weights;        ///< [B, L], float32: 1 but for weighted tokens
  };

  /// @param suffix  of the package's folders: "" for tokenizer and text_encoder, "_2" for tokenizer_2, text_encoder_2
  TextEncoder(const ModelPackage& package, const std::string& suffix, torch::Device device);

  /// @param weighting  brackets are weights (prompt_weights.hpp), and not text
  /// @throws std::invalid_argument if text isn't UTF-8, or a weight isn't a number.
  PromptTokens tokenize(const std::string& text, bool weighting) const;

  /// Tokens that one chunk has room for, 75 in Stable Diffusion.
  std::int64_t chunk_room() const { return tokenizer_.model_max_length() - 2; }

  /// Logs a warning if so many chunks don't hold the prompt, which it calls `name`.
  void warn_of_cut(const PromptTokens& prompt, std::int64_t chunks, std::string_view name) const;

  /// Reads prompts in so many chunks, each with its own start and end token; what doesn't fit is left out.
  Output operator()(const std::vector<PromptTokens>& prompts, std::int64_t chunks) const;

  std::int64_t num_layers() const { return num_layers_; }

 private:
  torch::Device device_;
  CLIPTokenizer tokenizer_;
  std::int64_t num_layers_;
  Network network_;
};

}  // namespace deepcache
