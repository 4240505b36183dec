#pragma once

#include <c10/util/BFloat16.h>

#include <cstdint>

namespace deepcache::cpu {

/// A product of matrices: sums [rows, columns] = left [rows, depth] * right [depth, columns], or += if `adds`. Rows are
/// so far apart as the strides say. `right` may be in panels, each of so many columns as the kernels say, and
/// `right_panel` apart. For bfloat16, each two rows of `right` are interleaved, element by element.
struct Product {
  std::int64_t rows, columns, depth, left_stride, right_stride, right_panel, sums_stride;
  bool adds;
};

/// Rows of a product's right operand that are interleaved: as many numbers as the sums' lanes, which are float32, hold.
template <typename T>
inline constexpr std::int64_t kInterleaved = sizeof(T) == sizeof(float) ? 1 : 2;

/// A block of attention's scores, [rows, columns] at a distance of `columns_stride`, becomes what the values are
/// weighted with, exp(scale * (score - maximum)), in place or, for bfloat16, in `weights` at the same places, where an
/// odd last column is followed by a zero.
/// @param maximum, sum   of each row, over all blocks so far; updated
/// @param output         [rows, head_dim] so far, [rows, head_dim]; brought to the new maximum
/// @param first          nothing is so far
struct SoftmaxBlock {
  std::int64_t rows, columns, columns_stride, head_dim;
  float scale;
  bool first;
  float *scores, *maximum, *sum, *output;
};

/// output = input + bias of each column + what is in `added`, if that isn't null; [rows, columns], whose rows are so
/// far apart as the strides say.
struct Tile {
  const float* input;
  std::int64_t rows, columns, input_stride, output_stride;
  const float* bias;
};

/// Each channel's sums of what values are above its pivot, and of the squares of that. With a value of the channel for
/// pivot, little is lost where its mean is far from 0.
struct Moments {
  float *sums, *squares;
};

/// output = input * scale + shift, of each channel, and then x * sigmoid(x) if `silu`.
struct Affine {
  const float *scale, *shift;
  bool silu;
};

/// Channels of at most 2x2 pixels of a picture.
struct Pixels {
  std::int64_t height, width, row_stride, pixel_stride, channels;
};

/// Inner loops of the operators in this folder, for one thread, on one kind of processor. Numbers are T in memory,
/// float32 or bfloat16, and float32 in between.
template <typename T>
struct Kernels {
  std::int64_t panel = 0;      // columns of a product's right operand that are next to each other
  std::int64_t max_depth = 0;  // of a product that is computed in one go, at best
  void (*multiply)(const Product& product, const T* left, const T* right, float* sums) = nullptr;
  void (*end_products)() = nullptr;  // a thread calls this after its last product

  // Templates of the processor's vectors, which `with_loops` puts here.
  void (*softmax_block)(const SoftmaxBlock& block, T* weights) = nullptr;
  void (*scale_row)(const float* input, std::int64_t size, float factor,
                    T* output) = nullptr;  // output = input * factor
  void (*add_bias)(const Tile& tile, const T* added, T* output) = nullptr;
  void (*add_moments)(const T* input, const T* pivot, std::int64_t rows, std::int64_t channels,
                      const Moments& sums) = nullptr;
  void (*apply)(const Affine& affine, const T* input, std::int64_t rows, std::int64_t channels, T* output) = nullptr;
  // output = values * gelu(gates)
  void (*gated_gelu)(const T* values, const T* gates, std::int64_t size, T* output) = nullptr;
  // Winograd's transforms (winograd.hpp), to places `stride` apart and back: of the channels of 4x4 pixels from `first`
  // on, of `size` weights of each of 3x3 taps, and to pixels, where bias and what is in `added` come to them.
  void (*winograd_input)(const T* const* pixels, std::int64_t first, std::int64_t channels, std::int64_t stride,
                         T* output) = nullptr;
  void (*winograd_weight)(const T* taps, std::int64_t tap_stride, std::int64_t size, std::int64_t stride,
                          T* output) = nullptr;
  void (*winograd_output)(const float* sums, std::int64_t stride, const Pixels& pixels, const float* bias,
                          const T* added, T* output) = nullptr;
};

extern const Kernels<float> kFloatKernelsAvx2, kFloatKernelsAvx512;
extern const Kernels<c10::BFloat16> kBFloat16KernelsAvx512, kBFloat16KernelsAmx;

// Products (multiply_loops.hpp), in parts of such a depth: with AVX2, 16 KiB of a panel in the first-level cache.
inline constexpr std::int64_t kAvx2Panel = 16, kAvx2Depth = 256;
void multiply_by_avx2(const Product& product, const float* left, const float* right, float* sums);

inline constexpr std::int64_t kAvx512Panel = 32, kAvx512Depth = 512;
void multiply_by_avx512(const Product& product, const float* left, const float* right, float* sums);
void multiply_by_avx512(const Product& product, const c10::BFloat16* left, const c10::BFloat16* right, float* sums);

/// oneDNN's small matrix products inside LibTorch (`brgemm`), which multiplies by AMX where the processor has it.
inline constexpr std::int64_t kAmxPanel = 64, kAmxDepth = 512;
void multiply_by_amx(const Product& product, const c10::BFloat16* left, const c10::BFloat16* right, float* sums);
void release_amx();

/// Those of this processor; `has_kernels` must be true of T.
template <typename T>
const Kernels<T>& kernels();

}  // namespace deepcache::cpu
