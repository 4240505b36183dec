#pragma once

#include <torch/types.h>

#include <cstdint>
#include <string>
#include <vector>

#include "deepcache/scheduler.hpp"

/// What requests of every family have in common. All throw std::invalid_argument.
namespace deepcache {

/// "Float [1, 4, 64, 64]", or "none"
std::string describe(const torch::Tensor& tensor);

/// Of height or width, in pixels.
void check_side(std::int64_t pixels, const char* name, std::int64_t vae_scale_factor);

/// What a run begins with: noise of seeds, one of them or one for each of the batch, or latents, of this shape.
void check_start(const std::vector<std::uint64_t>& seeds, const torch::Tensor& latents,
                 const std::vector<std::int64_t>& shape);

void check_eta(double eta, const Scheduler& scheduler);

}  // namespace deepcache
