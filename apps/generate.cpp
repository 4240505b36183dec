#include "generate.hpp"

#include <deepcache/cli.hpp>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <map>
#include <memory>
#include <optional>
#include <stdexcept>
#include <vector>

namespace deepcache::apps {
namespace {

struct Options : cli::Options {
  std::string image, mask, refiner, model_type;
  std::vector<std::filesystem::path> control_images = {};
  std::vector<double> control_scales = {}, control_starts = {}, control_ends = {};
};

/// Model types of the original's script, and which kinds of packages they name.
const std::map<std::string, std::vector<std::string>> kModelTypes{
    {"sd1.5", {"sd1.5", "sd"}},
    {"sd2.1", {"sd2.1", "sd"}},
    {"sdxl", {"sdxl"}},
    {"sd-img2img", {"sd1.5", "sd2.1", "sd"}},
    {"sd-inpaint", {"sd1.5", "sd2.1", "sd", "sd-inpaint"}},
    {"sdxl-inpaint", {"sdxl", "sdxl-inpaint"}},
};

void check_model_type(const Options& o, const std::string& actual) {
  if (o.model_type.empty()) return;
  const auto& kinds = kModelTypes.at(o.model_type);
  if (std::ranges::find(kinds, actual) == kinds.end())
    throw std::invalid_argument(fmt::format("{} is a model of type {}, not {}", o.model, actual, o.model_type));
  if (o.model_type.ends_with("img2img") && o.image.empty())
    throw std::invalid_argument(o.model_type + " needs --image");
  if (o.model_type.ends_with("inpaint") && o.mask.empty())
    throw std::invalid_argument(o.model_type + " needs --image and --mask");
}

void add_model_flags(CLI::App& app, Options& o) {
  auto& params = o.request.params;
  app.add_option("-i,--image", o.image, "PNG file to begin with");
  app.add_option("--mask", o.mask, "PNG file of the image's size: white is painted anew, black is kept")
      ->needs("--image");
  app.add_option("--strength", params.strength,
                 "Share of the steps that is run on an image; default: 0.8, inpainting 1, SDXL 0.3 and 0.9999");
  app.add_option("--refiner,--refine", o.refiner, "Package of a refiner, which takes over near the end");
  app.add_option("--refiner-start", o.request.refiner_start, "Where it does, from 0 to 1")
      ->needs("--refiner")
      ->capture_default_str();
  app.add_flag("--vae-tiling", params.vae.tiling, "Decode and encode large pictures tile by tile: less memory");
  app.add_flag("--vae-slicing", params.vae.slicing, "Decode and encode one picture of a batch at a time");
  app.add_option("--model_type,--model-type", o.model_type, "Checks that the package is of this type")
      ->check(CLI::IsMember(kModelTypes));
}

void add_control_flags(CLI::App& app, Options& o) {
  const auto each = [&](const char* flag, auto& values, const char* help) {
    return app.add_option(flag, values, help)->allow_extra_args(false);
  };
  each("--controlnet", o.controlnets, "Package of a ControlNet for the model; may be given several times");
  each("--control-image", o.control_images, "PNG file for it; one for each --controlnet, in their order")
      ->needs("--controlnet");
  each("--control-scale", o.control_scales, "How much it counts; default: 1")->needs("--control-image");
  each("--control-start", o.control_starts, "Share of the run from which on it acts; default: 0")
      ->needs("--control-image");
  each("--control-end", o.control_ends, "Share of the run until which it acts; default: 1")->needs("--control-image");
}

/// Sets a number of each control image, where the flag is given.
void set_each(std::vector<ControlImage>& controls, double ControlImage::*number, const std::vector<double>& values,
              const char* flag) {
  if (values.empty()) return;
  if (values.size() != controls.size())
    throw std::invalid_argument(fmt::format("{} must be given for each of the {} control images, or not at all; got {}",
                                            flag, controls.size(), values.size()));
  for (std::size_t i = 0; i < values.size(); ++i) controls[i].*number = values[i];
}

void load_controls(const StableDiffusionPipeline& pipe, Options& o) {
  auto& controls = o.request.params.control_images;
  load_control_images(pipe, o.control_images, o.request.params);
  set_each(controls, &ControlImage::conditioning_scale, o.control_scales, "--control-scale");
  set_each(controls, &ControlImage::guidance_start, o.control_starts, "--control-start");
  set_each(controls, &ControlImage::guidance_end, o.control_ends, "--control-end");
}

void add_prompt_flags(CLI::App& app, Options& o) {
  auto& params = o.request.params;
  app.add_option("--prompt-2", params.prompt_2, "SDXL's second text encoder's; default: --prompt");
  app.add_option("--negative-prompt-2", params.negative_prompt_2, "Likewise; default: --negative-prompt");
  app.add_option("--clip-skip", params.clip_skip, "Text encoder layers to leave out")->capture_default_str();
  app.add_option("--guidance-rescale", params.guidance_rescale, "Correction of overexposure, 0 to 1")
      ->capture_default_str();
  app.add_option("--eta", params.eta, "DDIM's noise, 0 to 1")->capture_default_str();
}

void paint(Options& o) {
  auto pipe = cli::load_pipeline(o);
  check_model_type(o, pipe.model_type());
  if (!o.image.empty()) load_pictures(pipe, o.image, o.mask, o.request.params);
  load_controls(pipe, o);
  std::optional<StableDiffusionPipeline> refiner;
  if (!o.refiner.empty()) {
    refiner.emplace(StableDiffusionPipeline::load(o.refiner, {torch::Device(o.device), o.scheduler}));
    o.request.refiner = &*refiner;
  }
  generate(pipe, o.request);
}

}  // namespace

void add_generate(CLI::App& app) {
  const auto options = std::make_shared<Options>();
  auto* command = app.add_subcommand("generate", "Paints pictures, of prompts, or of images and prompts");
  cli::add_flags(*command, *options);
  add_prompt_flags(*command, *options);
  add_model_flags(*command, *options);
  add_control_flags(*command, *options);
  command->callback([options] { paint(*options); });
}

}  // namespace deepcache::apps
