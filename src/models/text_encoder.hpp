#pragma once

#include <torch/types.h>

#include <cstdint>
#include <string>
#include <vector>

#include "core/torchscript.hpp"
#include "deepcache/tokenizer.hpp"
#include "models/model_package.hpp"

namespace deepcache {

/// A CLIP text encoder, and the tokenizer whose ids it reads.
class TextEncoder {
 public:
  struct Output {
    torch::Tensor hidden_states;  ///< [num_layers() + 1, B, L, D]: the embeddings, then what each layer gives
    torch::Tensor pooled;         ///< [B, P]
  };

  /// @param suffix  of the package's folders: "" for tokenizer and text_encoder, "_2" for tokenizer_2, text_encoder_2
  TextEncoder(const ModelPackage& package, const std::string& suffix, torch::Device device);

  /// Warns of prompts that are longer than the model reads.
  Output operator()(const std::vector<std::string>& texts) const;

  const CLIPTokenizer& tokenizer() const { return tokenizer_; }
  std::int64_t num_layers() const { return num_layers_; }

 private:
  torch::Device device_;
  CLIPTokenizer tokenizer_;
  std::int64_t num_layers_;
  Network network_;
};

}  // namespace deepcache
