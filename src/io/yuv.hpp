#pragma once

#include <torch/types.h>

namespace deepcache {

/// Planes of bytes, 4:2:0: luma [H, W], and two of chroma [H/2, W/2].
struct YuvPlanes {
  torch::Tensor y;
  torch::Tensor cb;
  torch::Tensor cr;
};

/// An image [3, H, W] of values in [0, 1], clamped to it, as ITU-R BT.709's Y'CbCr in its narrow range (16 to 235 and
/// 240), with chroma sited as MPEG-2's: in the columns of the even pixels, between two rows. An odd H or W grows by
/// one, the last row or column twice.
YuvPlanes to_yuv(const torch::Tensor& image);

}  // namespace deepcache
