#pragma once

#include <immintrin.h>

#include <cstdint>

namespace deepcache::cpu {

/// What kernel_loops.hpp asks of a processor's vectors. Lanes outside a mask are loaded as zeros, and not stored.
struct Avx2 {
  using Floats = __m256;
  struct All {};  // since stores with a mask are slow on some processors
  struct Mask {
    __m256i lanes;
  };
  static constexpr std::int64_t kLanes = 8;
  static constexpr All kAll{};

  static Mask first(std::int64_t count) {
    return {_mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(count)), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7))};
  }
  static Floats all(float value) { return _mm256_set1_ps(value); }

  static Floats load(const float* place, All) { return _mm256_loadu_ps(place); }
  static Floats load(const float* place, Mask mask) { return _mm256_maskload_ps(place, mask.lanes); }
  static void store(float* place, Floats values, All) { _mm256_storeu_ps(place, values); }
  static void store(float* place, Floats values, Mask mask) { _mm256_maskstore_ps(place, mask.lanes, values); }

  /// a * b + c
  static Floats fmadd(Floats a, Floats b, Floats c) { return _mm256_fmadd_ps(a, b, c); }
  /// a * b - c
  static Floats fmsub(Floats a, Floats b, Floats c) { return _mm256_fmsub_ps(a, b, c); }
  /// The second, where one is NaN.
  static Floats max(Floats a, Floats b) { return _mm256_max_ps(a, b); }
  /// The first outside the mask.
  static Floats max(Floats a, Floats b, All) { return max(a, b); }
  static Floats max(Floats a, Floats b, Mask mask) {
    return _mm256_blendv_ps(a, max(a, b), _mm256_castsi256_ps(mask.lanes));
  }
  static Floats abs(Floats x) { return _mm256_andnot_ps(all(-0.0F), x); }
  /// Zero outside the mask.
  static Floats keep(Floats x, All) { return x; }
  static Floats keep(Floats x, Mask mask) { return _mm256_and_ps(x, _mm256_castsi256_ps(mask.lanes)); }
  /// x > 0 ? a : b
  static Floats if_positive(Floats x, Floats a, Floats b) {
    return _mm256_blendv_ps(b, a, _mm256_cmp_ps(x, all(0), _CMP_GT_OQ));
  }

  static constexpr float kLeastExponent = -127;
  static Floats round(Floats x) { return _mm256_round_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
  /// x * 2^exponent, of whole exponents from -127, which gives 0; from 128 on it gives infinity.
  static Floats scale(Floats x, Floats exponent) {
    const auto whole = _mm256_cvtps_epi32(_mm256_min_ps(all(128), exponent));
    return x * _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(whole, _mm256_set1_epi32(127)), 23));
  }

  static float sum(Floats x) {
    auto half = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    half = _mm_add_ps(half, _mm_movehl_ps(half, half));
    return _mm_cvtss_f32(_mm_add_ss(half, _mm_movehdup_ps(half)));
  }
  static float maximum(Floats x) {
    auto half = _mm_max_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    half = _mm_max_ps(half, _mm_movehl_ps(half, half));
    return _mm_cvtss_f32(_mm_max_ss(half, _mm_movehdup_ps(half)));
  }
  static float front(Floats x) { return _mm256_cvtss_f32(x); }
};

}  // namespace deepcache::cpu
