#include "pipelines/checks.hpp"

#include <algorithm>
#include <utility>

#include "error.hpp"

namespace deepcache {

std::string describe(const torch::Tensor& tensor) {
  if (!tensor.defined()) return "none";
  return fmt::format("{} [{}]", c10::toString(tensor.scalar_type()), fmt::join(tensor.sizes(), ", "));
}

void check_side(std::int64_t pixels, const char* name, std::int64_t vae_scale_factor) {
  const auto below = std::max<std::int64_t>(1, pixels / vae_scale_factor) * vae_scale_factor;
  check_argument(pixels > 0 && pixels % vae_scale_factor == 0,
                 "{} must be a positive multiple of {} for this model; the nearest to {} are {} and {}", name,
                 vae_scale_factor, pixels, below, below + vae_scale_factor);
}

void check_start(const std::vector<std::uint64_t>& seeds, const torch::Tensor& latents,
                 const std::vector<std::int64_t>& shape) {
  check_argument(seeds.size() == 1 || std::cmp_equal(seeds.size(), shape[0]),
                 "there must be one seed, or one for each of the batch's {}, got {}", shape[0], seeds.size());
  if (latents.defined())
    check_argument(latents.sizes() == shape && latents.is_floating_point(),
                   "latents must be floating-point values of shape [{}], got {}", fmt::join(shape, ", "),
                   describe(latents));
}

void check_eta(double eta, const Scheduler& scheduler) {
  check_argument(eta >= 0 && eta <= 1, "eta must be 0 to 1, got {}", eta);
  check_argument(eta == 0 || scheduler.has_ddim_options(), "eta is an option of DDIM; {} has none, got {}",
                 scheduler.name(), eta);
}

}  // namespace deepcache
