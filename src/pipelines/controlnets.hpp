#pragma once

#include <cstdint>
#include <filesystem>
#include <vector>

#include "deepcache/stable_diffusion.hpp"
#include "deepcache/unet.hpp"
#include "models/model_package.hpp"
#include "pipelines/conditions.hpp"

namespace deepcache {

/// The UNet of `model` with the ControlNets of these packages in it.
/// @throws std::runtime_error as `ModelPackage` does, or if a package holds something else.
/// @throws std::invalid_argument if a ControlNet isn't for this model.
UNet with_controlnets(const UNet& unet, const ModelPackage& model, std::int64_t vae_scale_factor,
                      const std::vector<std::filesystem::path>& packages);

/// Adds the control images of checked parameters to conditions that hold those of the prompts.
void add_control_images(Conditions& conditions, const StableDiffusionParams& params);

/// What the residuals of each ControlNet are multiplied by in each call of a run, as diffusers' `controlnet_keep` says.
/// @param num_steps  from the first call of the run to the last of the schedule
Schedules control_schedules(const StableDiffusionParams& params, std::int64_t num_steps);

}  // namespace deepcache
