// The README's ten lines, in an app of their own: a sampling loop over a UNet file.

#include <deepcache/deepcache.hpp>
#include <iostream>

int main(int, char** argv) {
  auto unet = deepcache::UNet::load(argv[1], torch::kCPU, torch::kFloat);
  auto scheduler = deepcache::Scheduler::from_config(argv[2]);
  auto latents = deepcache::NoiseGenerator({42}).randn({1, 4, 8, 8}, torch::kFloat);
  const auto text_embeddings = deepcache::NoiseGenerator({7}).randn({1, 24, 32}, torch::kFloat);

  deepcache::Helper helper(unet);
  helper.set_params({.cache_interval = 3, .cache_branch_id = 0});
  helper.enable();
  scheduler->set_timesteps(9);
  unet.begin_run();
  for (std::int64_t i = 0; i < scheduler->timesteps().size(0); ++i) {
    const auto noise = unet(latents, scheduler->timesteps()[i], text_embeddings);  // full or shallow
    latents = scheduler->step(noise, i, latents);
  }
  deepcache::save_video(torch::rand({2, 3, 16, 16}), argv[3], 7);  // links what videos need
  const auto stats = helper.stats();
  std::cout << stats.full_steps << " full and " << stats.cached_steps << " cached steps\n";
  return stats.full_steps == 3 && stats.cached_steps == 6 && latents.isfinite().all().item<bool>() ? 0 : 1;
}
