#include "cpu/multiply_loops.hpp"
#include "cpu/vector_avx2.hpp"

namespace deepcache::cpu {
namespace {

struct Floats {
  using T = float;
  using V = Avx2;
  using Items = V::Floats;
  static constexpr std::int64_t kItem = 1, kMaxRows = 6, kMaxDepth = kAvx2Depth;
  static constexpr bool kFetchesAhead = true;

  static Items load(const T* place) { return V::load(place, V::kAll); }
  static Items all(const T* place) { return V::all(*place); }
  static V::Floats add_product(V::Floats sum, Items a, Items b) { return V::fmadd(a, b, sum); }
};

}  // namespace

void multiply_by_avx2(const Product& product, const float* left, const float* right, float* sums) {
  multiply<Floats>(product, left, right, sums);
}

}  // namespace deepcache::cpu
