#include <deepcache/unconditional.hpp>

#include <fmt/format.h>

#include "generate_flags.hpp"

namespace deepcache::apps {

void paint_unconditional(GenerateFlags& flags) {
  const auto& asked = flags.request.params;
  auto pipe = UnconditionalPipeline::load(flags.model, cli::load_options(flags));
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
  const Job job{.request = {{"model", flags.request.model},
                            {"scheduler", pipe.scheduler_name()},
                            {"steps", *params.num_inference_steps},
                            {"eta", params.eta},
                            {"seeds", params.seeds},
                            {"batch_size", params.batch_size},
                            {"width", shape[3]},
                            {"height", shape[2]},
                            {"init_latents", params.latents.defined()}},
                .caption = fmt::format("seed {}", params.seeds.at(0)),
                .run = [&](const StepCallback& callback) { return paint(both(flags, callback)); },
                .warm_up = [&] { paint(two_steps); }};
  run(pipe, flags, {job}, params.batch_size);
}

}  // namespace deepcache::apps
