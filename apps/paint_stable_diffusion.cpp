#include <deepcache/generate.hpp>

#include <fmt/format.h>

#include <optional>
#include <stdexcept>
#include <vector>

#include "generate_flags.hpp"

namespace deepcache::apps {
namespace {

/// Sets a number of each control image, where the flag is given.
template <typename Number>
void set_each(std::vector<ControlImage>& controls, Number ControlImage::*number, const std::vector<double>& values,
              const char* flag) {
  if (values.empty()) return;
  if (values.size() != controls.size())
    throw std::invalid_argument(fmt::format("{} must be given for each of the {} control images, or not at all; got {}",
                                            flag, controls.size(), values.size()));
  for (std::size_t i = 0; i < values.size(); ++i) controls[i].*number = values[i];
}

void load_controls(const StableDiffusionPipeline& pipe, GenerateFlags& o) {
  auto& controls = o.request.params.control_images;
  load_control_images(pipe, o.control_images, o.request.params);
  set_each(controls, &ControlImage::conditioning_scale, o.control_scales, "--control-scale");
  set_each(controls, &ControlImage::guidance_start, o.control_starts, "--control-start");
  set_each(controls, &ControlImage::guidance_end, o.control_ends, "--control-end");
}

}  // namespace

void paint_stable_diffusion(GenerateFlags& flags) {
  cli::require_prompt(flags);
  auto pipe = cli::load<StableDiffusionPipeline>(flags);
  check_model_type(flags, pipe.model_type());
  if (!flags.image.empty()) load_pictures(pipe, flags.image, flags.mask, flags.request.params);
  load_controls(pipe, flags);
  std::optional<StableDiffusionPipeline> refiner;
  if (!flags.refiner.empty()) {
    auto options = cli::load_options(flags);
    options.controlnets.clear();
    refiner.emplace(StableDiffusionPipeline::load(flags.refiner, options));
    flags.request.refiner = &*refiner;
  }
  flags.request.cache = cli::cache_params(flags, pipe);
  generate(pipe, flags.request);
}

}  // namespace deepcache::apps
