#pragma once

#include <c10/util/BFloat16.h>
#include <immintrin.h>

#include <cstdint>

namespace deepcache::cpu {

/// What kernel_loops.hpp asks of a processor's vectors. Lanes outside a mask are loaded as zeros, and not stored.
struct Avx512 {
  using Floats = __m512;
  using Mask = __mmask16;
  static constexpr std::int64_t kLanes = 16;
  static constexpr Mask kAll = 0xffff;

  static Mask first(std::int64_t count) {
    return count >= kLanes ? kAll : static_cast<Mask>((1U << static_cast<unsigned>(count)) - 1);
  }
  static Floats all(float value) { return _mm512_set1_ps(value); }

  static Floats load(const float* place, Mask mask) { return _mm512_maskz_loadu_ps(mask, place); }
  static Floats load(const c10::BFloat16* place, Mask mask) {
    const auto halves = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(mask, place));
    return _mm512_castsi512_ps(_mm512_slli_epi32(halves, 16));
  }
  static void store(float* place, Floats values, Mask mask) { _mm512_mask_storeu_ps(place, mask, values); }
  static void store(c10::BFloat16* place, Floats values, Mask mask) {
    _mm256_mask_storeu_epi16(place, mask, reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(values)));
  }

  /// a * b + c
  static Floats fmadd(Floats a, Floats b, Floats c) { return _mm512_fmadd_ps(a, b, c); }
  /// a * b - c
  static Floats fmsub(Floats a, Floats b, Floats c) { return _mm512_fmsub_ps(a, b, c); }
  /// The second, where one is NaN.
  static Floats max(Floats a, Floats b) { return _mm512_max_ps(a, b); }
  /// The first outside the mask.
  static Floats max(Floats a, Floats b, Mask mask) { return _mm512_mask_max_ps(a, mask, a, b); }
  static Floats abs(Floats x) { return _mm512_abs_ps(x); }
  /// Zero outside the mask.
  static Floats keep(Floats x, Mask mask) { return _mm512_maskz_mov_ps(mask, x); }
  /// x > 0 ? a : b
  static Floats if_positive(Floats x, Floats a, Floats b) {
    return _mm512_mask_mov_ps(b, _mm512_cmp_ps_mask(x, all(0), _CMP_GT_OQ), a);
  }

  static constexpr float kLeastExponent = -200;
  static Floats round(Floats x) { return _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
  /// x * 2^exponent, of whole exponents.
  static Floats scale(Floats x, Floats exponent) { return _mm512_scalef_ps(x, exponent); }

  static float sum(Floats x) { return _mm512_reduce_add_ps(x); }
  static float maximum(Floats x) { return _mm512_reduce_max_ps(x); }
  static float front(Floats x) { return _mm512_cvtss_f32(x); }
};

}  // namespace deepcache::cpu
