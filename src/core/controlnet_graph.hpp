#pragma once

#include <ATen/core/function_schema.h>

#include <vector>

#include "core/torchscript.hpp"

namespace deepcache {

/// `forward` of a network: its graph, and its arguments, which are the graph's inputs in their order.
struct Forward {
  Graph graph;
  c10::FunctionSchema schema;
};

/// Lets go of the module, whose weights the graph shares. @throws std::invalid_argument as `inference_graph` does.
Forward forward_of(torch::jit::Module module);

/// A UNet with ControlNets (arXiv 2302.05543) in front, as one graph on shared weights, so that a cut keeps of them
/// what still matters. Each reads those inputs of the UNet that its arguments name, and has two more:
/// `controlnet_cond_<i>` [B, 3, H, W] and the number `conditioning_scale_<i>`. What they return, down residuals and
/// then the middle one, is multiplied by its scale, summed over them, and added as diffusers' UNet2DConditionModel
/// does: down residual b to the skip operand of the concatenation with cache_branch_id b, the middle one to what enters
/// the deepest concatenation. Of an inpainting UNet's sample they may read the first channels, the latents. Neither
/// graph is changed; that of the result begins with the ControlNets.
/// @throws std::invalid_argument if a ControlNet doesn't fit the UNet: it reads something that the UNet doesn't, has
///         another number of residuals, or another width; if the UNet has ControlNets already; and as
///         `inference_graph` does.
Forward add_controlnets(const Forward& unet, const std::vector<Forward>& controlnets);

}  // namespace deepcache
