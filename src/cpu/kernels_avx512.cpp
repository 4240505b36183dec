// Compiled for AVX-512 (CMakeLists.txt): includes nothing whose inline functions other files use too.
#include <immintrin.h>

#include <numbers>

#include "cpu/kernels.hpp"

namespace deepcache::cpu {
namespace {

constexpr std::int64_t kLanes = 16;

using Floats = __m512;
using Mask = __mmask16;

Mask first_lanes(std::int64_t count) {
  return count >= kLanes ? Mask{0xffff} : static_cast<Mask>((1U << static_cast<unsigned>(count)) - 1);
}

Floats all(float value) {
  return _mm512_set1_ps(value);
}

/// Lanes outside the mask are zero.
Floats load(const float* place, Mask mask) {
  return _mm512_maskz_loadu_ps(mask, place);
}

Floats load(const c10::BFloat16* place, Mask mask) {
  const auto halves = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(mask, place));
  return _mm512_castsi512_ps(_mm512_slli_epi32(halves, 16));
}

void store(float* place, Floats values, Mask mask) {
  _mm512_mask_storeu_ps(place, mask, values);
}

void store(c10::BFloat16* place, Floats values, Mask mask) {
  _mm256_mask_storeu_epi16(place, mask, reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(values)));
}

/// function(offset, lanes) for each 16 of `size` numbers.
template <typename Function>
void for_lanes(std::int64_t size, const Function& function) {
  std::int64_t i = 0;
  for (; i + kLanes <= size; i += kLanes) function(i, Mask{0xffff});
  if (i < size) function(i, first_lanes(size - i));
}

/// 2^x: by the whole part of x, and for what is left, from -0.5 to 0.5, a polynomial, the highest power first.
template <typename... Coefficients>
Floats exp2(Floats x, float highest, Coefficients... lower) {
  x = _mm512_max_ps(all(-200), x);  // -inf has no rest; of two operands, NaN is the second
  const auto whole = _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  const auto rest = _mm512_sub_ps(x, whole);
  auto power = all(highest);
  ((power = _mm512_fmadd_ps(power, rest, all(lower))), ...);
  return _mm512_scalef_ps(power, whole);
}

// The polynomials are those of their degrees whose largest relative error is least.

/// Within 1e-7 of 2^x.
Floats exp2(Floats x) {
  return exp2(x, 1.534581200e-4F, 1.339993127e-3F, 9.618488958e-3F, 5.550328777e-2F, 2.402264689e-1F,
              std::numbers::ln2_v<float>, 1.0F);
}

/// As exact as the numbers that it becomes: for bfloat16, which rounds by up to 2e-3 of it, within 8e-5.
template <typename T>
Floats exp2_for(Floats x) {
  if (sizeof(T) == sizeof(float)) return exp2(x);
  return exp2(x, 5.517167e-2F, 2.4261112e-1F, 6.9326099e-1F, 9.9992807e-1F);  // NOLINT(modernize-use-std-numbers)
}

constexpr float kLog2E = std::numbers::log2e_v<float>;

Floats sigmoid(Floats x) {
  return _mm512_div_ps(all(1), _mm512_add_ps(all(1), exp2(_mm512_mul_ps(x, all(-kLog2E)))));
}

/// x / 2 * (1 + erf(x / sqrt(2))), with erf of Abramowitz and Stegun's equation 7.1.26 (within 1.5e-7).
Floats gelu(Floats x) {
  const auto scaled = _mm512_mul_ps(_mm512_abs_ps(x), all(0.707106781F));
  const auto t = _mm512_div_ps(all(1), _mm512_fmadd_ps(all(0.3275911F), scaled, all(1)));
  auto sum = all(1.061405429F);
  for (const float coefficient : {-1.453152027F, 1.421413741F, -0.284496736F, 0.254829592F})
    sum = _mm512_fmadd_ps(sum, t, all(coefficient));
  const auto falling = exp2(_mm512_mul_ps(_mm512_mul_ps(scaled, scaled), all(-kLog2E)));
  const auto erfc = _mm512_mul_ps(_mm512_mul_ps(sum, t), falling);  // of the absolute value
  // x / 2 * (2 - erfc) for positive x, x / 2 * erfc for negative
  const auto positive = _mm512_cmp_ps_mask(x, all(0), _CMP_GT_OQ);
  const auto factor = _mm512_mask_sub_ps(erfc, positive, all(2), erfc);
  return _mm512_mul_ps(_mm512_mul_ps(x, all(0.5F)), factor);
}

template <typename T>
void softmax(const SoftmaxBlock& b, T* weights) {
  const auto scale = b.scale * kLog2E;  // powers of two from here on
  for (std::int64_t row = 0; row < b.rows; ++row) {
    const float* scores = b.scores + row * b.columns_stride;
    T* out = weights + row * b.columns_stride;
    auto lanes = all(-__builtin_inff());
    for_lanes(b.columns, [&](std::int64_t c, Mask mask) {
      lanes = _mm512_mask_max_ps(lanes, mask, lanes, load(scores + c, mask));
    });
    auto maximum = _mm512_reduce_max_ps(lanes) * scale;
    float before = 0;
    if (!b.first) {
      maximum = maximum > b.maximum[row] ? maximum : b.maximum[row];
      const auto correction = exp2(all(b.maximum[row] - maximum));
      before = b.sum[row] * _mm512_cvtss_f32(correction);
      float* output = b.output + row * b.head_dim;
      for_lanes(b.head_dim, [&](std::int64_t i, Mask mask) {
        store(output + i, _mm512_mul_ps(load(output + i, mask), correction), mask);
      });
    }
    lanes = all(0);
    for_lanes(b.columns, [&](std::int64_t c, Mask mask) {
      const auto exponent = _mm512_fmsub_ps(load(scores + c, mask), all(scale), all(maximum));
      const auto weight = _mm512_maskz_mov_ps(mask, exp2_for<T>(exponent));
      lanes = _mm512_add_ps(lanes, weight);
      store(out + c, weight, mask);
    });
    if (sizeof(T) < sizeof(float) && b.columns % 2 == 1) out[b.columns] = T();
    b.sum[row] = before + _mm512_reduce_add_ps(lanes);
    b.maximum[row] = maximum;
  }
}

template <typename T>
void scale(const float* input, std::int64_t size, float factor, T* output) {
  for_lanes(size, [&](std::int64_t i, Mask mask) {
    store(output + i, _mm512_mul_ps(load(input + i, mask), all(factor)), mask);
  });
}

Floats biased(const Tile& t, std::int64_t row, std::int64_t column, Mask mask) {
  return _mm512_add_ps(load(t.input + row * t.input_stride + column, mask), load(t.bias + column, mask));
}

template <typename T>
void finish(const Tile& t, const T* added, T* output) {
  for (std::int64_t row = 0; row < t.rows; ++row)
    for_lanes(t.columns, [&](std::int64_t c, Mask mask) {
      const auto place = row * t.output_stride + c;
      const auto sum = biased(t, row, c, mask);
      store(output + place, added == nullptr ? sum : _mm512_add_ps(sum, load(added + place, mask)), mask);
    });
}

template <typename T>
void sum_moments(const T* input, const T* pivot, std::int64_t rows, std::int64_t channels, const Moments& m) {
  for (std::int64_t row = 0; row < rows; ++row)
    for_lanes(channels, [&](std::int64_t c, Mask mask) {
      const auto x = _mm512_sub_ps(load(input + row * channels + c, mask), load(pivot + c, mask));
      store(m.sums + c, _mm512_add_ps(load(m.sums + c, mask), x), mask);
      store(m.squares + c, _mm512_fmadd_ps(x, x, load(m.squares + c, mask)), mask);
    });
}

template <typename T>
void affine(const Affine& a, const T* input, std::int64_t rows, std::int64_t channels, T* output) {
  for (std::int64_t row = 0; row < rows; ++row)
    for_lanes(channels, [&](std::int64_t c, Mask mask) {
      const auto i = row * channels + c;
      const auto x = _mm512_fmadd_ps(load(input + i, mask), load(a.scale + c, mask), load(a.shift + c, mask));
      store(output + i, a.silu ? _mm512_mul_ps(x, sigmoid(x)) : x, mask);
    });
}

template <typename T>
void gate(const T* values, const T* gates, std::int64_t size, T* output) {
  for_lanes(size, [&](std::int64_t i, Mask mask) {
    store(output + i, _mm512_mul_ps(load(values + i, mask), gelu(load(gates + i, mask))), mask);
  });
}

}  // namespace

void softmax_block(const SoftmaxBlock& block, float* weights) {
  softmax(block, weights);
}
void softmax_block(const SoftmaxBlock& block, c10::BFloat16* weights) {
  softmax(block, weights);
}

void scale_row(const float* input, std::int64_t size, float factor, float* output) {
  scale(input, size, factor, output);
}
void scale_row(const float* input, std::int64_t size, float factor, c10::BFloat16* output) {
  scale(input, size, factor, output);
}

void add_bias(const Tile& tile, const float* added, float* output) {
  finish(tile, added, output);
}
void add_bias(const Tile& tile, const c10::BFloat16* added, c10::BFloat16* output) {
  finish(tile, added, output);
}

void add_moments(const float* input, const float* pivot, std::int64_t rows, std::int64_t channels,
                 const Moments& moments) {
  sum_moments(input, pivot, rows, channels, moments);
}
void add_moments(const c10::BFloat16* input, const c10::BFloat16* pivot, std::int64_t rows, std::int64_t channels,
                 const Moments& moments) {
  sum_moments(input, pivot, rows, channels, moments);
}

void apply(const Affine& a, const float* input, std::int64_t rows, std::int64_t channels, float* output) {
  affine(a, input, rows, channels, output);
}
void apply(const Affine& a, const c10::BFloat16* input, std::int64_t rows, std::int64_t channels,
           c10::BFloat16* output) {
  affine(a, input, rows, channels, output);
}

void gated_gelu(const float* values, const float* gates, std::int64_t size, float* output) {
  gate(values, gates, size, output);
}
void gated_gelu(const c10::BFloat16* values, const c10::BFloat16* gates, std::int64_t size, c10::BFloat16* output) {
  gate(values, gates, size, output);
}

}  // namespace deepcache::cpu
