#pragma once

#include <string>
#include <vector>

#include "pipelines/denoising_loop.hpp"
#include "pipelines/prompt_encoder.hpp"
#include "pipelines/request.hpp"

namespace deepcache {

/// What a request tells the UNet, its parameters resolved.
Conditions make_conditions(const std::vector<std::string>& prompts, const StableDiffusionParams& params,
                           const ModelTraits& traits, const PromptEncoder& prompt_encoder);

}  // namespace deepcache
