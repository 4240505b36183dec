#pragma once

#include <torch/csrc/jit/api/module.h>
#include <torch/types.h>

#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "models/model_package.hpp"

namespace deepcache::apps {

/// What is known of the sizes of a UNet's inputs.
struct InputSizes {
  using Size = std::optional<std::int64_t>;
  Size in_channels = {}, height = {}, width = {};     ///< of "sample"
  Size num_frames = {};                               ///< of a video's "sample"
  Size prompt_length = {}, cross_attention_dim = {};  ///< of "encoder_hidden_states"
  Size pooled_dim = {};                               ///< of SDXL's "text_embeds"
  Size num_time_ids = {};                             ///< of SDXL's "time_ids", or a video's "added_time_ids"
};

/// One input, as shape and dtype.
struct InputShape {
  std::string name;
  std::vector<std::int64_t> shape;
  torch::Dtype dtype;
};

/// From a package's configurations and its tokenizer.
/// @throws std::runtime_error as `ModelPackage::read` does.
InputSizes sizes_of_package(const ModelPackage& package);

/// From a UNet's config.json as diffusers writes it.
/// @throws std::runtime_error if it can't be read, or a setting isn't as it should be.
InputSizes sizes_of_config(const std::filesystem::path& config);

/// From weights that have diffusers' names.
InputSizes sizes_of_weights(const torch::jit::Module& module);

/// `first`, and from `second` what isn't known there.
InputSizes merge(const InputSizes& first, const InputSizes& second);

/// Reads "sample=1x4x64x64", "timestep=" (no dimensions) or "class_labels=1:int64".
/// @param dtype  where none is given
/// @throws std::invalid_argument if it isn't such a text.
InputShape parse_input(const std::string& text, torch::Dtype dtype);

/// The inputs of a UNet in its own order; `given` ones go before known sizes.
/// @throws std::invalid_argument if one can't be known, or one is given that isn't among the names.
std::vector<InputShape> input_shapes(const std::vector<std::string>& names, const std::vector<InputShape>& given,
                                     const InputSizes& sizes, std::int64_t batch, torch::Dtype dtype);

}  // namespace deepcache::apps
