#include "cpu/multiply_loops.hpp"
#include "cpu/vector_avx512.hpp"

namespace deepcache::cpu {
namespace {

constexpr std::int64_t kRows = 14;

struct BFloat16Pairs {
  using T = c10::BFloat16;
  using V = Avx512;
  using Items = __m512bh;
  static constexpr std::int64_t kItem = kInterleaved<T>, kMaxRows = kRows, kMaxDepth = kAvx512Depth;
  static constexpr bool kFetchesAhead = false;

  static Items load(const T* place) { return reinterpret_cast<__m512bh>(_mm512_loadu_si512(place)); }
  static Items all(const T* place) {
    int pair = 0;
    __builtin_memcpy(&pair, place, sizeof(pair));
    return reinterpret_cast<__m512bh>(_mm512_set1_epi32(pair));
  }
  static V::Floats add_product(V::Floats sum, Items a, Items b) { return _mm512_dpbf16_ps(sum, a, b); }
};

}  // namespace

void multiply_by_avx512(const Product& product, const float* left, const float* right, float* sums) {
  multiply<FloatItems<Avx512, kRows, kAvx512Depth, false>>(product, left, right, sums);
}
void multiply_by_avx512(const Product& product, const c10::BFloat16* left, const c10::BFloat16* right, float* sums) {
  multiply<BFloat16Pairs>(product, left, right, sums);
}

}  // namespace deepcache::cpu
