#include <deepcache/class_conditional.hpp>
#include <deepcache/unconditional.hpp>

#include <fmt/format.h>

#include <stdexcept>

#include "generate_flags.hpp"

namespace deepcache::apps {

void paint_unconditional(GenerateFlags& flags) {
  const auto& asked = flags.request.params;
  auto pipe = cli::load<UnconditionalPipeline>(flags);
  check_model_type(flags, pipe.model_type());
  UnconditionalParams given{
      .batch_size = asked.num_images_per_prompt, .eta = asked.eta, .seeds = asked.seeds, .latents = asked.latents};
  flags.take("--steps", asked.num_inference_steps, given.num_inference_steps);
  const auto params = pipe.resolve(given);
  pipe.validate(params);
  const auto paint = [&](const StepCallback& callback) {
    auto with_callback = params;
    with_callback.callback = callback;
    const auto result = pipe(with_callback);
    return Painted{.pictures = result.images, .latents = result.latents, .cancelled = result.cancelled};
  };
  const auto shape = pipe.latent_shape(params);
  const Job job{.subjects = {{.request = {{"model", flags.request.model},
                                          {"scheduler", pipe.scheduler_name()},
                                          {"steps", *params.num_inference_steps},
                                          {"eta", params.eta},
                                          {"seeds", params.seeds},
                                          {"batch_size", params.batch_size},
                                          {"width", shape[3]},
                                          {"height", shape[2]},
                                          {"init_latents", params.latents.defined()}},
                              .caption = fmt::format("seed {}", params.seeds.at(0))}},
                .run = [&](const StepCallback& callback) { return paint(both(flags, callback)); },
                .warm_up = [&] { paint(two_steps); }};
  run(pipe, flags, {job}, params.batch_size);
}

void paint_classes(GenerateFlags& flags) {
  const auto& asked = flags.request.params;
  if (flags.class_labels.empty()) throw std::invalid_argument("--class-label is required");
  auto pipe = cli::load<ClassConditionalPipeline>(flags);
  check_model_type(flags, pipe.model_type());
  ClassConditionalParams given{.num_images_per_label = asked.num_images_per_prompt,
                               .height = asked.height,
                               .width = asked.width,
                               .seeds = asked.seeds,
                               .eta = asked.eta,
                               .latents = asked.latents};
  flags.take("--steps", asked.num_inference_steps, given.num_inference_steps);
  if (asked.guidance_scale) given.guidance_scale = *asked.guidance_scale;
  given = pipe.resolve(given);
  const auto paint = [&](std::int64_t label, const StepCallback& callback) {
    auto params = given;
    params.callback = callback;
    const auto result = pipe(label, params);
    return Painted{.pictures = result.images, .latents = result.latents, .cancelled = result.cancelled};
  };
  std::vector<Job> jobs;
  for (const auto label : flags.class_labels) {
    pipe.validate({label}, given);
    jobs.push_back({.subjects = {{.request = {{"model", flags.request.model},
                                              {"class_label", label},
                                              {"scheduler", pipe.scheduler_name()},
                                              {"steps", given.num_inference_steps},
                                              {"guidance_scale", given.guidance_scale},
                                              {"eta", given.eta},
                                              {"seeds", given.seeds},
                                              {"batch_size", given.num_images_per_label},
                                              {"width", given.width},
                                              {"height", given.height},
                                              {"init_latents", given.latents.defined()}},
                                  .caption = fmt::format("class {}", label)}},
                    .run = [&, label](const StepCallback& callback) { return paint(label, both(flags, callback)); },
                    .warm_up = [&, label] { pipe.decode(paint(label, two_steps).latents); }});
  }
  run(pipe, flags, jobs, given.num_images_per_label);
}

}  // namespace deepcache::apps
