#pragma once

#include <torch/types.h>

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "deepcache/pipeline.hpp"
#include "deepcache/scheduler.hpp"
#include "deepcache/unet.hpp"
#include "models/model_package.hpp"

/// What packages and requests of every family have in common. What is wrong with a package is a std::runtime_error, and
/// with a request a std::invalid_argument.
namespace deepcache {

/// "Float [1, 4, 64, 64]", or "none"
std::string describe(const torch::Tensor& tensor);

/// Of height or width, in pixels.
void check_side(std::int64_t pixels, const char* name, std::int64_t vae_scale_factor);

/// What a run begins with: noise of seeds, one of them or one for each of the batch, or latents, of this shape.
void check_start(const std::vector<std::uint64_t>& seeds, const torch::Tensor& latents,
                 const std::vector<std::int64_t>& shape);

void check_eta(double eta, const Scheduler& scheduler);

/// Of latents [B, C, h, w] to decode.
void check_latents(const torch::Tensor& latents, std::int64_t channels);

/// That the package in the folder is of one of the families; returns it.
const ModelPackage& check_family(const ModelPackage& package, const std::filesystem::path& folder,
                                 const std::vector<std::string>& families);

/// That none are asked for.
void check_no_controlnets(const LoadOptions& options);

/// That the UNet's inputs have these names, in whatever order.
void check_inputs(const UNet& unet, const std::vector<std::string>& names);

}  // namespace deepcache
