#include "pipelines/controlnets.hpp"

#include <string>

#include "error.hpp"

namespace deepcache {
namespace {

void check_config(const ConfigReader& config, std::int64_t vae_scale_factor) {
  config.require("conditioning_embedding_out_channels");
  const auto halved = config.numbers("conditioning_embedding_out_channels", 1, 1e6).size() - 1;
  check_data(halved < 16 && std::int64_t{1} << halved == vae_scale_factor,
             "it halves control images {} times; the model's latents are {} times smaller than its pictures", halved,
             vae_scale_factor);
  const auto channels = config.integer("conditioning_channels", 3, 1, 1000);
  check_data(channels == 3, "conditioning_channels must be 3, those of a picture, got {}", channels);
  check_data(!config.boolean("global_pool_conditions", false), "global_pool_conditions isn't supported");
}

std::filesystem::path network_file(const std::filesystem::path& folder, const ModelPackage& model,
                                   std::int64_t vae_scale_factor) {
  const ModelPackage package(folder);
  check_data(package.family() == "controlnet", "{} holds a model of family \"{}\", no ControlNet", folder.string(),
             package.family());
  check_argument(package.dtype() == model.dtype(),
                 "the ControlNet {} runs in {}, the model in {}: export both with the same --dtype", folder.string(),
                 c10::toString(package.dtype()), c10::toString(model.dtype()));
  package.read("controlnet/config.json", [&](const ConfigReader& config) {
    check_config(config, vae_scale_factor);
    return 0;
  });
  return package.file("controlnet/model.pt");
}

std::string numbered(const char* name, std::size_t index) {
  return fmt::format("{}_{}", name, index);
}

}  // namespace

UNet with_controlnets(const UNet& unet, const ModelPackage& model, std::int64_t vae_scale_factor,
                      const std::vector<std::filesystem::path>& packages) {
  if (packages.empty()) return unet;
  std::vector<std::filesystem::path> files;
  for (const auto& package : packages) files.push_back(network_file(package, model, vae_scale_factor));
  return unet.with_controlnet_files(files, model.dtype());
}

void add_control_images(Conditions& conditions, const StableDiffusionParams& params) {
  const auto& states = conditions.at("encoder_hidden_states");
  const auto batch = *params.guidance_scale > 1 ? states.size(0) / 2 : states.size(0);
  for (std::size_t i = 0; i < params.control_images.size(); ++i) {
    const auto& given = params.control_images[i].image;
    const auto images = (given.dim() == 3 ? given.unsqueeze(0) : given).to(torch::kFloat);
    const auto each = images.repeat_interleave(batch / images.size(0), 0).to(states.options());
    conditions[numbered("controlnet_cond", i)] = each.repeat({states.size(0) / batch, 1, 1, 1});
  }
}

Schedules control_schedules(const StableDiffusionParams& params, std::int64_t num_steps) {
  Schedules schedules;
  const auto steps = static_cast<double>(num_steps);
  for (std::size_t i = 0; i < params.control_images.size(); ++i) {
    const auto& control = params.control_images[i];
    auto& scales = schedules[numbered("conditioning_scale", i)];
    for (std::int64_t step = 0; step < num_steps; ++step) {
      const auto begin = static_cast<double>(step) / steps, end = static_cast<double>(step + 1) / steps;
      const bool on = begin >= control.guidance_start && end <= control.guidance_end;
      scales.push_back(on ? *control.conditioning_scale : 0);
    }
  }
  return schedules;
}

}  // namespace deepcache
