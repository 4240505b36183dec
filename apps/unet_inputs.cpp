#include "unet_inputs.hpp"

#include <algorithm>
#include <regex>
#include <sstream>
#include <string_view>
#include <utility>

#include "deepcache/tokenizer.hpp"
#include "error.hpp"
#include "io/config_reader.hpp"
#include "io/files.hpp"

namespace deepcache::apps {
namespace {

constexpr std::int64_t kLargest = 1 << 20;  // of a dimension: no UNet's is larger, and products of four stay in range

constexpr const char* kVideoInput = "added_time_ids";  // which UNets with a temporal axis have

const std::map<std::string, torch::Dtype> kDtypes{
    {"float32", torch::kFloat}, {"float16", torch::kHalf}, {"bfloat16", torch::kBFloat16}, {"int64", torch::kLong}};

/// A setting that may be missing or null.
std::optional<std::int64_t> dimension(const ConfigReader& config, std::string_view key) {
  if (!config.holds(key)) return std::nullopt;
  return config.integer(key, 0, 1, kLargest);
}

/// Height (0) or width (1) of the sample.
std::optional<std::int64_t> side(const ConfigReader& config, std::size_t index) {
  if (!config.is_list("sample_size")) return dimension(config, "sample_size");
  const auto sides = config.integers("sample_size");
  check_data(sides.size() == 2 && std::ranges::min(sides) > 0,
             "sample_size must be a number or [height, width], got [{}]", fmt::join(sides, ", "));
  return sides[index];
}

/// Of Stable Video Diffusion, whose embedded time ids have a layer to themselves, and whose prompt is one embedding.
void add_video_sizes(const ConfigReader& config, InputSizes& sizes) {
  sizes.num_frames = dimension(config, "num_frames");
  sizes.prompt_length = 1;
  const auto both = dimension(config, "projection_class_embeddings_input_dim");
  const auto embedded = dimension(config, "addition_time_embed_dim");
  if (both && embedded) sizes.num_time_ids = *both / *embedded;
}

/// Of SDXL, the pooled embedding and the embedded time ids share one layer's input; how, the UNet alone doesn't tell:
/// its base model has 6 ids. Another split of the same sum has the same multiply-accumulates.
InputSizes sizes_of_unet(const ConfigReader& config, std::optional<std::int64_t> pooled_dim) {
  constexpr std::int64_t kTimeIds = 6;
  InputSizes sizes{.in_channels = dimension(config, "in_channels"),
                   .height = side(config, 0),
                   .width = side(config, 1),
                   .cross_attention_dim = dimension(config, "cross_attention_dim"),
                   .pooled_dim = pooled_dim};
  if (config.holds("num_frames")) {
    add_video_sizes(config, sizes);
    return sizes;
  }
  const auto both = dimension(config, "projection_class_embeddings_input_dim");
  const auto embedded = dimension(config, "addition_time_embed_dim");
  if (!both || !embedded) return sizes;
  if (!pooled_dim) sizes.pooled_dim = *both - kTimeIds * *embedded;
  check_data(*sizes.pooled_dim > 0 && *both > *sizes.pooled_dim && (*both - *sizes.pooled_dim) % *embedded == 0,
             "projection_class_embeddings_input_dim is {}; it must be the width of text_embeds and some multiple of "
             "addition_time_embed_dim, {}",
             *both, *embedded);
  sizes.num_time_ids = (*both - *sizes.pooled_dim) / *embedded;
  return sizes;
}

[[noreturn]] void refuse_input(const std::string& text) {
  throw std::invalid_argument(
      fmt::format("--input must be NAME=SHAPE or NAME=SHAPE:DTYPE, such as sample=1x4x64x64 or class_labels=1:int64, "
                  "each dimension 1 to {}; got \"{}\"",
                  kLargest, text));
}

/// A dimension of a known input: how messages call it, and its size.
using Dimensions = std::vector<std::pair<std::string, std::optional<std::int64_t>>>;

/// @param is_video  whether samples have frames, and not one picture each
std::map<std::string, Dimensions> known_inputs(const InputSizes& sizes, std::int64_t batch, bool is_video) {
  Dimensions sample{{"batch", batch},
                    {"channels (in_channels)", sizes.in_channels},
                    {"height (--latent-size)", sizes.height},
                    {"width (--latent-size)", sizes.width}};
  if (is_video) sample.insert(sample.begin() + 1, {"frames (--num-frames)", sizes.num_frames});
  return {{"sample", sample},
          {"timestep", {}},
          {"encoder_hidden_states",
           {{"batch", batch},
            {"length (--text-length)", sizes.prompt_length},
            {"width (cross_attention_dim)", sizes.cross_attention_dim}}},
          {"text_embeds", {{"batch", batch}, {"width (projection_class_embeddings_input_dim)", sizes.pooled_dim}}},
          {"time_ids", {{"batch", batch}, {"number (addition_time_embed_dim)", sizes.num_time_ids}}},
          {kVideoInput, {{"batch", batch}, {"number (addition_time_embed_dim)", sizes.num_time_ids}}}};
}

InputShape known_shape(const std::string& name, const InputSizes& sizes, std::int64_t batch, torch::Dtype dtype,
                       bool is_video) {
  const auto known = known_inputs(sizes, batch, is_video);
  const auto found = known.find(name);
  if (found == known.end()) {
    std::vector<std::string> names;
    for (const auto& [known_name, dimensions] : known) names.push_back(known_name);
    throw std::invalid_argument(
        fmt::format("the shape of the UNet's input \"{}\" isn't known: give it, as --input {}=SHAPE (known inputs: {})",
                    name, name, fmt::join(names, ", ")));
  }
  InputShape shape{.name = name, .shape = {}, .dtype = name == "timestep" ? torch::kLong : dtype};
  for (const auto& [what, size] : found->second) {
    check_argument(
        size.has_value(),
        "the shape of the UNet's input \"{}\" isn't known, its {} is missing: give the UNet's config.json by "
        "--config, or the shape by --input {}=SHAPE",
        name, what, name);
    shape.shape.push_back(*size);
  }
  return shape;
}

}  // namespace

InputSizes sizes_of_package(const ModelPackage& package) {
  std::optional<std::int64_t> pooled_dim, prompt_length;
  if (package.has("text_encoder_2/config.json"))
    pooled_dim = package.read("text_encoder_2/config.json",
                              [](const ConfigReader& config) { return dimension(config, "projection_dim"); });
  for (const char* name : {"tokenizer", "tokenizer_2"})
    if (!prompt_length && package.has(std::string(name) + "/vocab.json"))
      prompt_length = CLIPTokenizer::load(package.folder(name)).model_max_length();
  if (package.has("class_embedder/config.json")) prompt_length = 1;  // one embedding, that of the class
  auto sizes =
      package.read("unet/config.json", [&](const ConfigReader& config) { return sizes_of_unet(config, pooled_dim); });
  if (prompt_length) sizes.prompt_length = prompt_length;
  return sizes;
}

InputSizes sizes_of_config(const std::filesystem::path& config) {
  const auto json = read_json(config);
  try {
    return sizes_of_unet(ConfigReader(json), std::nullopt);
  } catch (const std::runtime_error& error) {
    throw std::runtime_error(config.string() + ": " + error.what());
  }
}

InputSizes sizes_of_weights(const torch::jit::Module& module) {
  InputSizes sizes;
  for (const auto& parameter : module.named_parameters()) {
    if (parameter.value.dim() < 2) continue;
    if (parameter.name == "conv_in.weight") sizes.in_channels = parameter.value.size(1);
    if (parameter.name.ends_with(".attn2.to_k.weight")) sizes.cross_attention_dim = parameter.value.size(1);
  }
  return sizes;
}

InputSizes merge(const InputSizes& first, const InputSizes& second) {
  const auto either = [](const auto& a, const auto& b) { return a ? a : b; };
  return {.in_channels = either(first.in_channels, second.in_channels),
          .height = either(first.height, second.height),
          .width = either(first.width, second.width),
          .num_frames = either(first.num_frames, second.num_frames),
          .prompt_length = either(first.prompt_length, second.prompt_length),
          .cross_attention_dim = either(first.cross_attention_dim, second.cross_attention_dim),
          .pooled_dim = either(first.pooled_dim, second.pooled_dim),
          .num_time_ids = either(first.num_time_ids, second.num_time_ids)};
}

InputShape parse_input(const std::string& text, torch::Dtype dtype) {
  static const std::regex form("([^=]+)=((\\d{1,7}(x\\d{1,7})*)?)(:(.*))?");
  std::smatch parts;
  if (!std::regex_match(text, parts, form)) refuse_input(text);
  InputShape input{.name = parts[1], .shape = {}, .dtype = dtype};
  std::istringstream shape(parts[2]);
  for (std::string digits; std::getline(shape, digits, 'x');) {
    input.shape.push_back(std::stoll(digits));
    if (input.shape.back() < 1 || input.shape.back() > kLargest) refuse_input(text);
  }
  if (!parts[5].matched) return input;
  const auto found = kDtypes.find(parts[6].str());
  check_argument(found != kDtypes.end(),
                 "the dtype of an --input must be float32, float16, bfloat16 or int64; got \"{}\"", text);
  input.dtype = found->second;
  return input;
}

std::vector<InputShape> input_shapes(const std::vector<std::string>& names, const std::vector<InputShape>& given,
                                     const InputSizes& sizes, std::int64_t batch, torch::Dtype dtype) {
  for (const auto& input : given)
    check_argument(std::ranges::find(names, input.name) != names.end(), "the UNet has no input \"{}\"; it has {}",
                   input.name, fmt::join(names, ", "));
  const bool is_video = std::ranges::find(names, kVideoInput) != names.end();
  std::vector<InputShape> shapes;
  for (const auto& name : names) {
    const auto found = std::ranges::find(given, name, &InputShape::name);
    shapes.push_back(found != given.end() ? *found : known_shape(name, sizes, batch, dtype, is_video));
  }
  return shapes;
}

}  // namespace deepcache::apps
