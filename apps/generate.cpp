#include "generate.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <map>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "generate_flags.hpp"
#include "models/model_package.hpp"

namespace deepcache::apps {
namespace {

/// Model types of the original's script, and which kinds of packages they name.
const std::map<std::string, std::vector<std::string>> kModelTypes{
    {"sd1.5", {"sd1.5", "sd"}},
    {"sd2.1", {"sd2.1", "sd"}},
    {"sdxl", {"sdxl"}},
    {"sd-img2img", {"sd1.5", "sd2.1", "sd"}},
    {"sd-inpaint", {"sd1.5", "sd2.1", "sd", "sd-inpaint"}},
    {"sdxl-inpaint", {"sdxl", "sdxl-inpaint"}},
    {"svd", {"svd", "svd-xt"}},
    {"text2video-zero", {"text2video-zero"}},
    {"ddpm", {"ddpm"}},
    {"ldm", {"ldm"}},
};

/// How packages of some families are run, and which flags they have a use for besides those of every family.
struct Program {
  std::vector<std::string> families;
  void (*paint)(GenerateFlags& flags);
  std::vector<std::string> flags;
};

const std::vector<Program> kPrograms{
    {{"stable-diffusion", "stable-diffusion-xl"},
     paint_stable_diffusion,
     {"--prompt",
      "--prompts-file",
      "--prompt-batch",
      "--negative-prompt",
      "--prompt-weighting",
      "--max-prompt-chunks",
      "--cfg-scale",
      "--batch-size",
      "--width",
      "--height",
      "--prompt-2",
      "--negative-prompt-2",
      "--clip-skip",
      "--guidance-rescale",
      "--eta",
      "--image",
      "--mask",
      "--strength",
      "--refiner",
      "--refiner-start",
      "--vae-tiling",
      "--vae-slicing",
      "--controlnet",
      "--control-image",
      "--control-scale",
      "--control-start",
      "--control-end"}},
    {{"stable-video-diffusion"},
     paint_image_to_video,
     {"--image", "--batch-size", "--width", "--height", "--num-frames", "--fps", "--motion-bucket-id",
      "--noise-aug-strength", "--decode-chunk-size", "--min-guidance-scale", "--max-guidance-scale"}},
    {{"text-to-video-zero"},
     paint_text_to_video,
     {"--prompt", "--prompts-file", "--negative-prompt", "--prompt-weighting", "--max-prompt-chunks", "--clip-skip",
      "--cfg-scale", "--width", "--height", "--eta", "--num-frames", "--fps", "--t0", "--t1",
      "--motion-field-strength-x", "--motion-field-strength-y", "--vae-tiling", "--vae-slicing"}},
    {{"unconditional"}, paint_unconditional, {"--batch-size", "--eta"}},
    {{"class-conditional"},
     paint_classes,
     {"--class-label", "--batch-size", "--cfg-scale", "--width", "--height", "--eta"}},
};

const Program& find_program(const GenerateFlags& flags) {
  const auto family = ModelPackage(flags.model).family();
  for (const auto& program : kPrograms)
    if (std::ranges::find(program.families, family) != program.families.end()) return program;
  throw std::invalid_argument(
      fmt::format("{} holds a model of family \"{}\", which isn't one that paints", flags.model, family));
}

/// Flags that some family has a use for, and this one hasn't.
void check_flags(const GenerateFlags& flags, const Program& program) {
  for (const auto& other : kPrograms)
    for (const auto& flag : other.flags)
      if (flags.command->count(flag) > 0 && std::ranges::find(program.flags, flag) == program.flags.end())
        throw std::invalid_argument(
            fmt::format("{} is of no use to {}, a model of family {}; besides those of every family, it has {}", flag,
                        flags.model, program.families[0], fmt::join(program.flags, ", ")));
}

}  // namespace

void check_model_type(const GenerateFlags& flags, const std::string& actual) {
  if (flags.model_type.empty()) return;
  const auto& kinds = kModelTypes.at(flags.model_type);
  if (std::ranges::find(kinds, actual) == kinds.end())
    throw std::invalid_argument(fmt::format("{} is a model of type {}, not {}", flags.model, actual, flags.model_type));
  if (flags.model_type.ends_with("img2img") && flags.image.empty())
    throw std::invalid_argument(flags.model_type + " needs --image");
  if (flags.model_type.ends_with("img2img") && !flags.mask.empty())
    throw std::invalid_argument(flags.model_type + " has no use for --mask; sd-inpaint has");
  if (flags.model_type.ends_with("inpaint") && flags.mask.empty())
    throw std::invalid_argument(flags.model_type + " needs --image and --mask");
}

StepCallback both(const GenerateFlags& flags, const StepCallback& callback) {
  return [callback, shown = flags.request.params.callback](const PipelineStep& step) {
    return callback(step) && (!shown || shown(step));
  };
}

bool two_steps(const PipelineStep& step) {
  return step.step_index < 1;
}

namespace {

void add_model_flags(CLI::App& app, GenerateFlags& o) {
  auto& params = o.request.params;
  app.add_option("-i,--image", o.image, "PNG or JPEG file to begin with");
  app.add_option("--mask", o.mask, "Image file of the image's size: white is painted anew, black is kept")
      ->needs("--image");
  app.add_option(
      "--strength", params.strength,
      "Share of the steps that is run on an image; default: 0.8, inpainting 1; SDXL 0.3, with a ControlNet 0.8, "
      "inpainting 0.9999");
  app.add_option("--refiner,--refine", o.refiner, "Package of a refiner, which takes over near the end");
  app.add_option("--refiner-start", o.request.refiner_start, "Where it does, from 0 to 1")
      ->needs("--refiner")
      ->capture_default_str();
  app.add_flag("--vae-tiling", params.vae.tiling, "Decode and encode large pictures tile by tile: less memory");
  app.add_flag("--vae-slicing", params.vae.slicing, "Decode and encode one picture of a batch at a time");
  app.add_option("--model_type,--model-type", o.model_type, "Checks that the package is of this type")
      ->check(CLI::IsMember(kModelTypes));
}

void add_control_flags(CLI::App& app, GenerateFlags& o) {
  const auto each = [&](const char* flag, auto& values, const char* help) {
    return app.add_option(flag, values, help)->allow_extra_args(false);
  };
  each("--controlnet", o.controlnets, "Package of a ControlNet for the model; may be given several times");
  each("--control-image", o.control_images, "Image file for it; one for each --controlnet, in their order")
      ->needs("--controlnet");
  each("--control-scale", o.control_scales, "How much it counts; default: 1, with --image 0.8, with SD and --mask 0.5")
      ->needs("--control-image");
  each("--control-start", o.control_starts, "Share of the run from which on it acts; default: 0")
      ->needs("--control-image");
  each("--control-end", o.control_ends, "Share of the run until which it acts; default: 1")->needs("--control-image");
}

void add_prompt_flags(CLI::App& app, GenerateFlags& o) {
  auto& params = o.request.params;
  app.add_option("--prompt-2", params.prompt_2, "SDXL's second text encoder's; default: --prompt");
  app.add_option("--negative-prompt-2", params.negative_prompt_2, "Likewise; default: --negative-prompt");
  app.add_option("--clip-skip", params.clip_skip, "Text encoder layers to leave out")->capture_default_str();
  app.add_option("--guidance-rescale", params.guidance_rescale, "Correction of overexposure, 0 to 1")
      ->capture_default_str();
  app.add_option("--eta", params.eta, "DDIM's noise, 0 to 1")->capture_default_str();
}

void add_class_flags(CLI::App& app, GenerateFlags& o) {
  app.add_option("--class-label", o.class_labels, "Of ImageNet, 0 to 999 (1000: no class); may be given several times")
      ->allow_extra_args(false);
}

void add_video_flags(CLI::App& app, GenerateFlags& o) {
  app.add_option("--num-frames", o.num_frames, "Of a video; default: the model's 14 or 25, text to video 8");
  app.add_option("--fps", o.fps,
                 "Frames a second of the video; image to video: 7, that the model is told; text to video: 4");
  app.add_option("--motion-bucket-id", o.motion_bucket_id, "Image to video: the higher, the more motion; default: 127");
  app.add_option("--noise-aug-strength", o.noise_aug_strength, "Image to video: noise on the image; default: 0.02");
  app.add_option("--decode-chunk-size", o.decode_chunk_size,
                 "Image to video: frames to decode at a time; default: all");
  app.add_option("--min-guidance-scale", o.min_guidance_scale, "Image to video: of the first frame; default: 1");
  app.add_option("--max-guidance-scale", o.max_guidance_scale, "Image to video: of the last frame; default: 3");
  app.add_option("--motion-field-strength-x", o.motion_field_strength_x,
                 "Text to video: pixels from frame to frame, at 512x512; default: 12");
  app.add_option("--motion-field-strength-y", o.motion_field_strength_y, "Likewise");
  app.add_option("--t0", o.t0, "Text to video: where motion is added, in steps from the end of the run; default: 44");
  app.add_option("--t1", o.t1, "Text to video: where frames part, in steps from the end of the run; default: 47");
}

void paint(GenerateFlags& flags) {
  const auto& program = find_program(flags);
  check_flags(flags, program);
  cli::prepare(flags);
  program.paint(flags);
}

}  // namespace

void add_generate(CLI::App& app) {
  const auto flags = std::make_shared<GenerateFlags>();
  auto* command = app.add_subcommand(
      "generate", "Paints pictures and videos: of prompts, images, classes, or nothing, as the package's model does");
  cli::add_flags(*command, *flags);
  add_prompt_flags(*command, *flags);
  add_model_flags(*command, *flags);
  add_control_flags(*command, *flags);
  add_class_flags(*command, *flags);
  add_video_flags(*command, *flags);
  flags->command = command;
  command->callback([flags] { paint(*flags); });
}

}  // namespace deepcache::apps
