#pragma once

#include <torch/types.h>

#include "core/torchscript.hpp"
#include "models/model_package.hpp"

namespace deepcache {

/// CLIP's vision model, as StableVideoDiffusionPipeline of diffusers asks it what is in a picture.
class ImageEncoder {
 public:
  ImageEncoder(const ModelPackage& package, torch::Device device);

  /// Images [n, 3, H, W] in [0, 1] of any size to embeddings [n, 1, D], in the package's dtype on the device.
  torch::Tensor encode(const torch::Tensor& images) const;

 private:
  torch::Device device_;
  torch::Dtype dtype_;
  torch::Tensor mean_, deviation_;  // [3, 1, 1], of the pictures that the model learned from
  Network network_;
};

/// Images [n, 3, H, W], float32, smoothed so that no detail is lost between pixels, at another size: by
/// `_resize_with_antialiasing` of pipeline_stable_video_diffusion.py, operator for operator.
torch::Tensor resize_with_antialiasing(const torch::Tensor& images, std::int64_t height, std::int64_t width);

}  // namespace deepcache
