#pragma once

#include <torch/types.h>

#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <vector>

/// What the pipelines have in common: how they are loaded, and what a run tells after each step.
namespace deepcache {

/// What a step callback sees.
struct PipelineStep {
  std::int64_t step_index;       ///< of the UNet call that was just done, 0 .. num_steps - 1
  std::int64_t num_steps;        ///< UNet calls of the run
  double timestep;               ///< of the noise process
  const torch::Tensor& latents;  ///< after the step, [B, C, h, w]; of a video [B, F, C, h, w] or the pipeline's own
};

/// Called after each step; returning false ends the run.
using StepCallback = std::function<bool(const PipelineStep&)>;

struct LoadOptions {
  torch::Device device = torch::kCPU;
  std::string scheduler = {};  ///< if not empty, instead of the package's own: "ddim", "plms", ..., or a class name of
                               ///< diffusers (`Scheduler::from_config`)
  /// Of StableDiffusionPipeline only: packages of ControlNets for this model, exported with the same dtype; each run
  /// then needs their `control_images`.
  std::vector<std::filesystem::path> controlnets = {};
  /// What the UNet computes in, `fastest_dtype` for example (UNetOptions::compute_dtype), and the VAE, if that is
  /// bfloat16 and the package doesn't name its dtype: float16's range is too small for some. Latents stay in the
  /// package's dtype. Default: the package's.
  std::optional<torch::Dtype> compute_dtype = std::nullopt;
  /// Whether native code in the package may be loaded: a UNet that was compiled (`tools/export.py --backend aoti`). It
  /// can do all that the program can: so only where you trust who made the package. Without it, the package's traced
  /// UNet is used, if it has one.
  bool trust_native_code = false;
  /// Whether the UNet's steps are recorded as CUDA graphs (UNetOptions::cuda_graphs): never run on a GPU yet.
  bool cuda_graphs = false;
};

}  // namespace deepcache
