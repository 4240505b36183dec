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

void check_latents(const torch::Tensor& latents, std::int64_t channels) {
  check_argument(latents.defined() && latents.dim() == 4 && latents.size(1) == channels && latents.is_floating_point(),
                 "latents must be floating-point values of shape [B, {}, h, w], got {}", channels, describe(latents));
}

const ModelPackage& check_family(const ModelPackage& package, const std::filesystem::path& folder,
                                 const std::vector<std::string>& families) {
  check_data(std::ranges::find(families, package.family()) != families.end(),
             "{} holds a model of family \"{}\"; this pipeline runs {}", folder.string(), package.family(),
             fmt::join(families, ", "));
  return package;
}

void check_no_controlnets(const LoadOptions& options) {
  check_argument(options.controlnets.empty(), "ControlNets go with Stable Diffusion only; got {}",
                 options.controlnets.size());
}

void check_inputs(const UNet& unet, const std::vector<std::string>& names) {
  const auto got = unet.input_names();
  check_data(std::ranges::is_permutation(got, names), "the UNet's inputs must be {}, got {}", fmt::join(names, ", "),
             fmt::join(got, ", "));
}

}  // namespace deepcache
