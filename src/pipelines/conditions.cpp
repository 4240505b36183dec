#include "pipelines/conditions.hpp"

#include "pipelines/controlnets.hpp"

namespace deepcache {
namespace {

/// One half of the batch, or all of it.
Conditions repeat(const PromptEmbeddings& prompts, const std::vector<double>& time_ids, std::int64_t repeats) {
  const auto& states = prompts.states;
  return {{"encoder_hidden_states", states.repeat_interleave(repeats, 0)},
          {"text_embeds", prompts.pooled.repeat_interleave(repeats, 0)},
          {"time_ids", torch::tensor(time_ids, states.options()).repeat({states.size(0) * repeats, 1})}};
}

/// SDXL's micro-conditioning (arXiv 2307.01952, section 2.2): every size as height, width; the refiner's has a score
/// instead of the last one.
class TimeIds {
 public:
  TimeIds(const StableDiffusionParams& params, const ModelTraits& traits) : params_(params), traits_(traits) {}

  std::vector<double> positive() const {
    return ids(original(), params_.crops_coords_top_left, target(), params_.aesthetic_score);
  }

  /// With an image, each negative size that isn't given is the positive one, and the crops are the positive ones;
  /// without, the negative sizes count if both are given.
  std::vector<double> negative() const {
    const auto& original_size = params_.negative_original_size;
    const auto& target_size = params_.negative_target_size;
    const auto score = params_.negative_aesthetic_score;
    if (traits_.has_aesthetics_score)
      return ids(original_size.value_or(original()), params_.negative_crops_coords_top_left, target(), score);
    if (params_.image.defined())
      return ids(original_size.value_or(original()), params_.crops_coords_top_left, target_size.value_or(target()),
                 score);
    return original_size && target_size
               ? ids(*original_size, params_.negative_crops_coords_top_left, *target_size, score)
               : positive();
  }

 private:
  ImageSize size() const { return {.height = params_.height, .width = params_.width}; }
  ImageSize original() const { return params_.original_size.value_or(size()); }
  ImageSize target() const { return params_.target_size.value_or(size()); }

  std::vector<double> ids(const ImageSize& original, const ImageSize& crops, const ImageSize& target,
                          double score) const {
    std::vector<double> ids;
    for (const auto side : {original.height, original.width, crops.height, crops.width})
      ids.push_back(static_cast<double>(side));
    if (traits_.has_aesthetics_score)
      ids.push_back(score);
    else
      for (const auto side : {target.height, target.width}) ids.push_back(static_cast<double>(side));
    return ids;
  }

  const StableDiffusionParams& params_;
  const ModelTraits& traits_;
};

}  // namespace

Conditions make_conditions(const std::vector<std::string>& prompts, const StableDiffusionParams& params,
                           const ModelTraits& traits, const PromptEncoder& prompt_encoder) {
  const TimeIds time_ids(params, traits);
  const auto encoded = prompt_encoder.encode(prompts, params);
  auto conditions = repeat(encoded.prompts, time_ids.positive(), params.num_images_per_prompt);
  if (encoded.negative) {
    const auto negative =
        repeat(*encoded.negative, time_ids.negative(), conditions.at("encoder_hidden_states").size(0));
    for (auto& [name, value] : conditions) value = torch::cat({negative.at(name), value});
  }
  add_control_images(conditions, params);
  return conditions;
}

}  // namespace deepcache
