#pragma once

#include <torch/types.h>

#include <map>
#include <string>
#include <vector>

#include "pipelines/prompt_encoder.hpp"
#include "pipelines/request.hpp"

namespace deepcache {

/// What the UNet is told besides sample and timestep, by the names of its inputs; under guidance, for both halves of
/// the batch, the unconditional one first.
using Conditions = std::map<std::string, torch::Tensor>;

/// Numbers among the UNet's inputs, one for each call of a run.
using Schedules = std::map<std::string, std::vector<double>>;

/// Those of a request, its parameters resolved.
Conditions make_conditions(const std::vector<std::string>& prompts, const StableDiffusionParams& params,
                           const ModelTraits& traits, const PromptEncoder& prompt_encoder);

}  // namespace deepcache
