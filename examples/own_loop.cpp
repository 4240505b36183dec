// DeepCache in a sampling loop of one's own: no prompts, no pipeline, just a UNet and a scheduler.
//
//   own_loop models/emoji 3 latents.pt        (every third step in full; torch.load reads the latents)
//
// The sizes below are those of the emoji model.

#include <deepcache/deepcache.hpp>

#include <charconv>
#include <cstdio>
#include <cstring>
#include <exception>
#include <filesystem>
#include <string>

int main(int argc, char** argv) try {
  if (argc != 4) {
    std::fprintf(stderr, "usage: own_loop PACKAGE CACHE_INTERVAL LATENTS.pt\n");
    return 2;
  }
  const std::filesystem::path package = argv[1];
  auto unet = deepcache::UNet::load(package / "unet/model.pt", torch::kCPU, torch::kFloat);
  auto scheduler = deepcache::Scheduler::from_config(package / "scheduler/scheduler_config.json", "ddim");
  deepcache::Helper helper(unet);
  std::int64_t cache_interval = 0;  // what isn't a number stays 0, which the helper refuses
  std::from_chars(argv[2], argv[2] + std::strlen(argv[2]), cache_interval);
  helper.set_params({.cache_interval = cache_interval, .cache_branch_id = 0});
  helper.enable();

  const torch::NoGradGuard no_grad;
  deepcache::NoiseGenerator noise({42});
  const auto initial_noise = noise.randn({1, 4, 16, 16}, torch::kFloat);
  const auto text_embeddings = noise.randn({1, 24, 96}, torch::kFloat);  // an encoder's, in a real program

  scheduler->set_timesteps(20);
  const auto timesteps = scheduler->timesteps();
  unet.begin_run(timesteps);  // before each image
  auto latents = initial_noise * scheduler->init_noise_sigma();
  for (std::int64_t i = 0; i < timesteps.size(0); ++i) {
    const auto sample = scheduler->scale_model_input(latents, i);
    const auto model_output = unet(sample, timesteps[i], text_embeddings);  // full or shallow, as the helper decides
    latents = scheduler->step(model_output, i, latents);
  }
  deepcache::save_tensor(latents, argv[3]);

  for (const auto& step : helper.stats().steps)
    std::printf("step %lld: %s, %.1f ms\n", static_cast<long long>(step.step_index), step.full ? "full" : "cached",
                step.milliseconds);
  return 0;
} catch (const std::exception& error) {
  std::fprintf(stderr, "own_loop: %s\n", error.what());
  return 2;
}
