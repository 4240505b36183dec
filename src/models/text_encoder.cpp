#include "models/text_encoder.hpp"

#include "error.hpp"
#include "log.hpp"

namespace deepcache {

TextEncoder::TextEncoder(const ModelPackage& package, const std::string& suffix, torch::Device device)
    : device_(device),
      tokenizer_(CLIPTokenizer::load(package.folder("tokenizer" + suffix))),
      num_layers_(
          package.read("text_encoder" + suffix + "/config.json",
                       [](const ConfigReader& config) { return config.integer("num_hidden_layers", 12, 1, 1000); })),
      network_(package.network("text_encoder" + suffix + "/model.pt"), device) {}

TextEncoder::Output TextEncoder::operator()(const std::vector<std::string>& texts) const {
  const auto room = tokenizer_.model_max_length() - 2;  // start and end token
  std::vector<torch::Tensor> batch;
  for (const auto& text : texts) {
    auto ids = tokenizer_.tokenize(text);
    if (const auto count = static_cast<std::int64_t>(ids.size()); count > room)
      log(LogLevel::kWarning,
          fmt::format("the prompt has {} tokens, the model reads the first {}: \"{}\"", count, room, text));
    batch.push_back(torch::tensor(tokenizer_.prepare_for_model(std::move(ids))));
  }
  const auto output = network_.forward({torch::stack(batch).to(device_)});
  const auto& elements = output.toTupleRef().elements();
  return {elements.at(0).toTensor(), elements.at(1).toTensor()};
}

}  // namespace deepcache
