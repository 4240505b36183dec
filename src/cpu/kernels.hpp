#pragma once

#include <c10/util/BFloat16.h>

#include <cstdint>

/// Inner loops of the operators in this folder, for one thread. Numbers are float32 or bfloat16 in memory, and float32
/// in between.
namespace deepcache::cpu {

/// A block of attention's scores, [rows, columns] at a distance of `columns_stride`, becomes what the values are
/// weighted with, exp(scale * score - maximum), in place or, for bfloat16, in `weights` at the same places, where an
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
void softmax_block(const SoftmaxBlock& block, float* weights);
void softmax_block(const SoftmaxBlock& block, c10::BFloat16* weights);

/// output[r] = input[r] * factor
void scale_row(const float* input, std::int64_t size, float factor, float* output);
void scale_row(const float* input, std::int64_t size, float factor, c10::BFloat16* output);

/// output = input + bias of each column + what is in `added`, if that isn't null; [rows, columns], whose rows are so
/// far apart as the strides say.
struct Tile {
  const float* input;
  std::int64_t rows, columns, input_stride, output_stride;
  const float* bias;
};
void add_bias(const Tile& tile, const float* added, float* output);
void add_bias(const Tile& tile, const c10::BFloat16* added, c10::BFloat16* output);

/// Adds to each channel's sums what the values of [rows, channels] are above its pivot, and the squares of that. With a
/// value of the channel for pivot, little is lost where its mean is far from 0.
struct Moments {
  float *sums, *squares;
};
void add_moments(const float* input, const float* pivot, std::int64_t rows, std::int64_t channels,
                 const Moments& moments);
void add_moments(const c10::BFloat16* input, const c10::BFloat16* pivot, std::int64_t rows, std::int64_t channels,
                 const Moments& moments);

/// output = input * scale + shift, of each channel, and then x * sigmoid(x) if `silu`; [rows, channels].
struct Affine {
  const float *scale, *shift;
  bool silu;
};
void apply(const Affine& affine, const float* input, std::int64_t rows, std::int64_t channels, float* output);
void apply(const Affine& affine, const c10::BFloat16* input, std::int64_t rows, std::int64_t channels,
           c10::BFloat16* output);

/// output = values * gelu(gates)
void gated_gelu(const float* values, const float* gates, std::int64_t size, float* output);
void gated_gelu(const c10::BFloat16* values, const c10::BFloat16* gates, std::int64_t size, c10::BFloat16* output);

}  // namespace deepcache::cpu
