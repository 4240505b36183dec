// A picture after a prompt and a control image (edges, depth, a pose, ...), with DeepCache.
//
//   controlnet packages/sd15 packages/sd15-canny edges.png "a red car" car.png

#include <deepcache/deepcache.hpp>

#include <cstdio>
#include <exception>

int main(int argc, char** argv) try {
  if (argc != 6) {
    std::fprintf(stderr, "usage: controlnet PACKAGE CONTROLNET_PACKAGE CONTROL.png PROMPT OUTPUT.png\n");
    return 2;
  }
  auto pipe = deepcache::StableDiffusionPipeline::load(argv[1], {.controlnets = {argv[2]}});  // or several
  deepcache::Helper helper(pipe);
  helper.set_params({.cache_interval = 3});
  helper.enable();

  deepcache::StableDiffusionParams params;
  deepcache::load_control_images(pipe, {argv[3]}, params);
  params.control_images[0].conditioning_scale = 0.9;
  params.control_images[0].guidance_end = 0.8;  // the last fifth of the steps is free
  const auto result = pipe(argv[4], params);
  deepcache::save_png(result.images[0], argv[5]);
  return 0;
} catch (const std::exception& error) {
  std::fprintf(stderr, "controlnet: %s\n", error.what());
  return 2;
}
