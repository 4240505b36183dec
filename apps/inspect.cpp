#include "inspect.hpp"

#include <torch/types.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <array>
#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>
#include <utility>

#include "core/feature_history.hpp"
#include "core/torchscript.hpp"
#include "deepcache/unet.hpp"
#include "error.hpp"
#include "memory.hpp"
#include "unet_inputs.hpp"

namespace fs = std::filesystem;

namespace deepcache::apps {
namespace {

constexpr std::array<std::int64_t, 5> kIntervals{2, 3, 5, 10, 20};
constexpr std::int64_t kPromptLength = 77;  // CLIP's, where no tokenizer says another

struct Options {
  fs::path model, config, decoder;
  std::pair<std::int64_t, std::int64_t> latent_size;  // height, width; 0: the configuration's
  std::int64_t batch = 1, text_length = 0, num_frames = 0;
  std::vector<std::string> inputs;
  bool json = false;
};

struct Inspection {
  torch::Dtype dtype = torch::kFloat;
  std::vector<InputShape> inputs;
  std::vector<BranchProfile> branches;
  Memory memory;
};

struct Loaded {
  torch::jit::Module unet;
  InputSizes sizes;
  std::optional<torch::jit::Module> decoder;  ///< of a video's latents
};

const char* name_of(torch::Dtype dtype) {
  static const std::map<torch::Dtype, const char*> names{{torch::kFloat, "float32"},
                                                         {torch::kHalf, "float16"},
                                                         {torch::kBFloat16, "bfloat16"},
                                                         {torch::kDouble, "float64"}};
  const auto found = names.find(dtype);
  return found == names.end() ? c10::toString(dtype) : found->second;
}

/// The networks, and what their folder tells of their inputs.
Loaded load(const Options& o) {
  if (fs::is_directory(o.model)) {
    check_argument(o.config.empty() && o.decoder.empty(),
                   "--config and --decoder go with a UNet's file; {} is a package, which has its own",
                   o.model.string());
    const ModelPackage package(o.model);
    check_data(package.has("unet/model.pt") || !package.has("unet/model.pt2"),
               "{} has a compiled UNet alone; a traced one is read here, of a package that was exported with --backend "
               "torchscript or both",
               o.model.string());
    Loaded loaded{.unet = package.network("unet/model.pt"), .sizes = sizes_of_package(package), .decoder = {}};
    if (loaded.sizes.num_frames && package.has("vae/decoder.pt")) loaded.decoder = package.network("vae/decoder.pt");
    return loaded;
  }
  check_data(fs::exists(o.model), "no such file or folder: {}", o.model.string());
  auto module = load_module(o.model);
  const auto beside = fs::absolute(o.model).parent_path() / "config.json";
  const auto config = o.config.empty() && fs::exists(beside) ? beside : o.config;
  auto sizes = config.empty() ? InputSizes{} : sizes_of_config(config);
  Loaded loaded{.unet = module, .sizes = merge(sizes, sizes_of_weights(module)), .decoder = {}};
  if (!o.decoder.empty()) loaded.decoder = load_module(o.decoder);
  return loaded;
}

UNet as_unet(const torch::jit::Module& module, const fs::path& file) {
  try {
    return UNet(module);
  } catch (const std::invalid_argument& error) {
    throw std::invalid_argument(fmt::format("{}: {}", file.string(), error.what()));
  }
}

/// "1x4x64x64"
std::string text_of(const std::vector<std::int64_t>& shape) {
  return fmt::format("{}", fmt::join(shape, "x"));
}

/// "sample 1x4x64x64, timestep"
std::string text_of(const std::vector<InputShape>& inputs) {
  std::vector<std::string> texts;
  for (const auto& input : inputs)
    texts.push_back(input.shape.empty() ? input.name : input.name + " " + text_of(input.shape));
  return fmt::format("{}", fmt::join(texts, ", "));
}

std::vector<c10::IValue> on_meta(const std::vector<InputShape>& shapes) {
  std::vector<c10::IValue> inputs;
  for (const auto& shape : shapes)
    inputs.emplace_back(shape.shape.empty()
                            ? torch::zeros({}, shape.dtype)
                            : torch::empty(shape.shape, torch::TensorOptions(shape.dtype).device(torch::kMeta)));
  return inputs;
}

std::vector<BranchProfile> profile(const UNet& unet, const std::vector<InputShape>& shapes) {
  try {
    return unet.profile(on_meta(shapes));
  } catch (const std::exception& error) {
    const std::string trace = error.what();  // of the interpreter, whose last line is the reason
    constexpr std::string_view kReason = "RuntimeError: ";
    const auto reason = trace.rfind(kReason);
    throw std::invalid_argument(
        fmt::format("the UNet can't run on these inputs: {}: {}", text_of(shapes),
                    reason == std::string::npos
                        ? trace
                        : trace.substr(reason + kReason.size(), trace.find('\n', reason) - reason - kReason.size())));
  }
}

Inspection inspect(const Options& o) {
  const auto loaded = load(o);
  const auto& module = loaded.unet;
  const auto unet = as_unet(module, o.model);
  Inspection result;
  for (const auto& parameter : module.parameters()) {
    if (!parameter.is_floating_point()) continue;
    result.dtype = parameter.scalar_type();
    break;
  }
  InputSizes asked;
  if (o.latent_size.first > 0) std::tie(asked.height, asked.width) = o.latent_size;
  if (o.text_length > 0) asked.prompt_length = o.text_length;
  if (o.num_frames > 0) asked.num_frames = o.num_frames;
  const auto known = merge(merge(asked, loaded.sizes), {.prompt_length = kPromptLength});
  std::vector<InputShape> given;
  for (const auto& text : o.inputs) given.push_back(parse_input(text, result.dtype));
  result.inputs = input_shapes(unet.input_names(), given, known, o.batch, result.dtype);

  const auto sample = std::ranges::find(result.inputs, "sample", &InputShape::name);
  check_argument(o.num_frames == 0 || (sample != result.inputs.end() && sample->shape.size() == 5),
                 "--num-frames is of UNets with a temporal axis, for videos; this one's inputs are {}",
                 text_of(result.inputs));
  result.branches = profile(unet, result.inputs);
  result.memory = measure_memory(module, on_meta(result.inputs), loaded.decoder);
  return result;
}

/// Of runs with a full step every `interval` steps and cached ones between, beside runs of full steps.
double speedup(std::int64_t full, std::int64_t cached, std::int64_t interval) {
  const auto steps = static_cast<double>(interval);
  return steps * static_cast<double>(full) / (static_cast<double>(full) + (steps - 1) * static_cast<double>(cached));
}

nlohmann::ordered_json to_json(const Macs& macs) {
  return {{"weights", macs.weights}, {"attention", macs.attention}};
}

nlohmann::ordered_json to_json(const Options& o, const Inspection& inspection) {
  nlohmann::ordered_json json{{"model", o.model.string()}, {"dtype", name_of(inspection.dtype)}};
  for (const auto& input : inspection.inputs) json["inputs"][input.name] = input.shape;
  json["full_step"] = to_json(inspection.branches.at(0).full_step);
  for (const auto& branch : inspection.branches) {
    nlohmann::ordered_json speedups, cache_bytes;
    for (const std::int64_t order : {0, 1, 2})
      cache_bytes[std::to_string(order)] = num_features_held(order) * branch.feature_bytes;
    for (const auto interval : kIntervals) {
      const auto key = std::to_string(interval);
      speedups["total"][key] = speedup(branch.full_step.total(), branch.cached_step.total(), interval);
      speedups["weights"][key] = speedup(branch.full_step.weights, branch.cached_step.weights, interval);
    }
    json["branches"].push_back({{"cache_branch_id", branch.cache_branch_id},
                                {"name", branch.name},
                                {"feature_shape", branch.feature_shape},
                                {"feature_bytes", branch.feature_bytes},
                                {"cache_bytes", cache_bytes},
                                {"cached_step", to_json(branch.cached_step)},
                                {"speedup", speedups}});
  }
  json["activations"] = {{"full_step", inspection.memory.full_step}, {"cached_step", inspection.memory.cached_step}};
  for (const auto& [frames, bytes] : inspection.memory.decoding) json["decoding"][std::to_string(frames)] = bytes;
  return json;
}

/// Bytes as "5.2 MB".
std::string text_of_bytes(std::int64_t bytes) {
  return bytes >= 100'000 ? fmt::format("{:.1f} MB", static_cast<double>(bytes) / 1e6)
                          : fmt::format("{:.1f} kB", static_cast<double>(bytes) / 1e3);
}

/// In lines.
std::string text_of(const Memory& memory) {
  auto text = fmt::format("activations: {} at most in a full step, {} in a cached one (branch 0)\n",
                          text_of_bytes(memory.full_step), text_of_bytes(memory.cached_step));
  for (const auto& [frames, bytes] : memory.decoding)
    text += fmt::format("decoding: {} at most, {} {} at a time\n", text_of_bytes(bytes), frames,
                        frames == 1 ? "frame" : "frames");
  return text;
}

void print_table(const Options& o, const Inspection& inspection) {
  const auto& full = inspection.branches.at(0).full_step;
  const bool large = full.total() >= 1'000'000'000;
  const double unit = large ? 1e9 : 1e6;
  const auto macs = [&](const Macs& m, int width) {
    return fmt::format("{:{}.1f} + {:{}.1f}", static_cast<double>(m.weights) / unit, width,
                       static_cast<double>(m.attention) / unit, width);
  };
  const std::string_view name = large ? "GMACs" : "MMACs";
  std::size_t widest = 4;
  for (const auto& branch : inspection.branches) widest = std::max(widest, branch.name.size());

  fmt::print(
      "{}: {}, {} branches\ninputs: {}\nfull step: {} {}, convolutions and linear layers + attention products\n{}\n",
      o.model.string(), name_of(inspection.dtype), inspection.branches.size(), text_of(inspection.inputs),
      macs(full, 0), name, text_of(inspection.memory));
  fmt::print("{:>{}}  speedup, full step every N\n", "cached step", widest + 51);
  fmt::print("id  {:<{}}  {:<15}  {:>9}  {:>17}", "name", widest, "feature", "bytes", name);
  for (const auto interval : kIntervals) fmt::print("  {:>6}", fmt::format("N={}", interval));
  fmt::print("\n");
  for (const auto& branch : inspection.branches) {
    fmt::print("{:>2}  {:<{}}  {:<15}  {:>9}  {:>17}", branch.cache_branch_id, branch.name, widest,
               text_of(branch.feature_shape), text_of_bytes(branch.feature_bytes), macs(branch.cached_step, 7));
    for (const auto interval : kIntervals)
      fmt::print("  {:>6}", fmt::format("{:.2f}x", speedup(full.total(), branch.cached_step.total(), interval)));
    fmt::print("\n");
  }
  fmt::print(
      "\nSpeedups are of all multiply-accumulates. Classifier-free guidance runs each step at twice the batch: twice "
      "the\n"
      "multiply-accumulates and bytes, the same speedups. Bytes are a feature's: {} are held at forecast order 1, the\n"
      "default, {} at 2, {} at 0.\n",
      num_features_held(1), num_features_held(2), num_features_held(0));
}

}  // namespace

void add_inspect(CLI::App& app) {
  auto* command = app.add_subcommand("inspect", "What each branch of a UNet would hold and save");
  auto o = std::make_shared<Options>();
  command->add_option("-m,--model,model", o->model, "Model package folder, or file of a traced UNet")->required();
  command->add_option("--latent-size", o->latent_size, "Height x width, as 64x64; default: the model's own")
      ->delimiter('x')
      ->check(CLI::Range(1, 65536));
  command->add_option("--batch", o->batch, "Images a step; guidance doubles them")
      ->check(CLI::Range(1, 65536))
      ->capture_default_str();
  command->add_option("--text-length", o->text_length, "Tokens of the prompt; default: the tokenizer's, or 77")
      ->check(CLI::Range(1, 65536));
  command->add_option("--num-frames", o->num_frames, "Frames of a video model; default: the model's own")
      ->check(CLI::Range(1, 65536));
  command->add_option("--decoder", o->decoder, "A video UNet file's traced VAE decoder, to tell its memory too");
  command->add_option("--config", o->config,
                      "A UNet file's config.json; default: the one beside the file, if there is");
  command
      ->add_option("--input", o->inputs,
                   "NAME=SHAPE of an input that isn't known, as class_labels=1:int64; may be given several times")
      ->allow_extra_args(false);
  command->add_flag("--json", o->json, "Print JSON: docs/macs.md describes it");
  command->footer(
      "Shapes alone are propagated; nothing is computed. Multiply-accumulates of weights are those of convolutions "
      "and\n"
      "linear layers, as DeepCache's paper counts them; attention's products are told apart. Activations are what\n"
      "operators have made and is still needed, at the moment when that is most; weights, and what an operator takes\n"
      "for itself, come on top.");
  command->callback([o] {
    const auto inspection = inspect(*o);
    if (o->json)
      fmt::print("{}\n", to_json(*o, inspection).dump(2));
    else
      print_table(*o, inspection);
  });
}

}  // namespace deepcache::apps
