#include <ATen/ops/_upsample_bicubic2d_aa.h>

#include "deepcache/image.hpp"
#include "error.hpp"

namespace deepcache {

torch::Tensor resize_image(const torch::Tensor& image, std::int64_t height, std::int64_t width) {
  check_argument(image.dim() == 3 && image.numel() > 0 && image.is_floating_point(),
                 "an image to resize must be floating-point values [C, H, W], got {} [{}]",
                 c10::toString(image.scalar_type()), fmt::join(image.sizes(), ", "));
  check_argument(height > 0 && width > 0, "an image's size must be 1 or above, got {}x{}", height, width);
  if (image.size(1) == height && image.size(2) == width) return image;
  return at::_upsample_bicubic2d_aa(image.unsqueeze(0), {height, width}, false)[0].clamp(0, 1);
}

}  // namespace deepcache
