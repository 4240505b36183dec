#include "deepcache/noise.hpp"

#include <ATen/CPUGeneratorImpl.h>

#include <utility>

#include "error.hpp"

namespace deepcache {
namespace {

constexpr bool kNonBlocking = true;  // memory that isn't pinned has been read when the copy returns

}  // namespace

NoiseGenerator::NoiseGenerator(const std::vector<std::uint64_t>& seeds) {
  check_argument(!seeds.empty(), "a noise generator needs at least one seed");
  for (const auto seed : seeds) generators_.push_back(at::make_generator<at::CPUGeneratorImpl>(seed));
}

torch::Tensor NoiseGenerator::randn(torch::IntArrayRef sizes, const torch::TensorOptions& options) {
  check_argument(at::isFloatingType(c10::typeMetaToScalarType(options.dtype())),
                 "noise is drawn in a floating point dtype, not {}", c10::str(options.dtype()));
  const auto on_cpu = torch::dtype(options.dtype()).device(torch::kCPU);
  if (generators_.size() == 1)
    return torch::randn(sizes, generators_.front(), on_cpu).to(options.device(), kNonBlocking);

  check_argument(!sizes.empty() && std::cmp_equal(sizes[0], generators_.size()),
                 "a generator of {} seeds draws noise for as many batch items; the shape asked for is {}",
                 generators_.size(), c10::str(sizes));
  auto item_sizes = sizes.vec();
  item_sizes[0] = 1;
  std::vector<torch::Tensor> items;
  for (const auto& generator : generators_) items.push_back(torch::randn(item_sizes, generator, on_cpu));
  return torch::cat(items).to(options.device(), kNonBlocking);
}

NoiseGenerator NoiseGenerator::first(std::int64_t count) const {
  if (generators_.size() == 1) return *this;
  check_argument(count >= 1 && std::cmp_less_equal(count, generators_.size()),
                 "a generator of {} seeds draws noise for 1 to {} batch items, not {}", generators_.size(),
                 generators_.size(), count);
  auto some = *this;
  some.generators_.erase(some.generators_.begin() + count, some.generators_.end());
  return some;
}

}  // namespace deepcache
