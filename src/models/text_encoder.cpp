#include "models/text_encoder.hpp"

#include <algorithm>

#include "error.hpp"
#include "log.hpp"
#include "models/prompt_weights.hpp"

namespace deepcache {
namespace {

/// The part of `values` that chunk `index` holds, which may be empty.
template <typename Value>
std::vector<Value> chunk_of(const std::vector<Value>& values, std::int64_t index, std::int64_t room) {
  const auto size = static_cast<std::int64_t>(values.size());
  const auto begin = std::min(index * room, size);
  return {values.begin() + begin, values.begin() + std::min(begin + room, size)};
}

}  // namespace

TextEncoder::TextEncoder(const ModelPackage& package, const std::string& suffix, torch::Device device)
    : device_(device),
      tokenizer_(CLIPTokenizer::load(package.folder("tokenizer" + suffix))),
      num_layers_(
          package.read("text_encoder" + suffix + "/config.json",
                       [](const ConfigReader& config) { return config.integer("num_hidden_layers", 12, 1, 1000); })),
      network_(package.network("text_encoder" + suffix + "/model.pt"), device) {}

PromptTokens TextEncoder::tokenize(const std::string& text, bool weighting) const {
  const auto converted = tokenizer_.maybe_convert_prompt(text);
  PromptTokens tokens;
  for (const auto& part : weighting ? parse_prompt_weights(converted) : std::vector{WeightedText{.text = converted}}) {
    const auto ids = tokenizer_.tokenize(part.text);
    tokens.ids.insert(tokens.ids.end(), ids.begin(), ids.end());
    tokens.weights.resize(tokens.ids.size(), part.weight);
  }
  return tokens;
}

void TextEncoder::warn_of_cut(const PromptTokens& prompt, std::int64_t chunks, std::string_view name) const {
  const auto count = static_cast<std::int64_t>(prompt.ids.size());
  const auto room = chunks * chunk_room();
  if (count <= room) return;
  const std::vector cut(prompt.ids.begin() + room, prompt.ids.end());
  log(LogLevel::kWarning, fmt::format("the {} has {} tokens, the model reads the first {}; this was cut: \"{}\"", name,
                                      count, room, tokenizer_.decode(cut)));
}

TextEncoder::Output TextEncoder::operator()(const std::vector<PromptTokens>& prompts, std::int64_t chunks) const {
  std::vector<torch::Tensor> states, weights;
  torch::Tensor pooled;
  for (std::int64_t chunk = 0; chunk < chunks; ++chunk) {
    std::vector<torch::Tensor> ids;
    auto chunk_weights = torch::ones({static_cast<std::int64_t>(prompts.size()), tokenizer_.model_max_length()});
    for (const auto& prompt : prompts) {
      const auto row = static_cast<std::int64_t>(ids.size());
      const auto values = torch::tensor(chunk_of(prompt.weights, chunk, chunk_room()));
      chunk_weights[row].slice(0, 1, 1 + values.size(0)).copy_(values);  // behind the start token
      ids.push_back(torch::tensor(tokenizer_.prepare_for_model(chunk_of(prompt.ids, chunk, chunk_room()))));
    }
    const auto output = network_.forward({torch::stack(ids).to(device_)});
    const auto& elements = output.toTupleRef().elements();
    states.push_back(elements.at(0).toTensor());
    weights.push_back(chunk_weights);
    if (!pooled.defined()) pooled = elements.at(1).toTensor();
  }
  return {.hidden_states = torch::cat(states, 2), .pooled = pooled, .weights = torch::cat(weights, 1).to(device_)};
}

}  // namespace deepcache
