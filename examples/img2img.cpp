// Image to image with DeepCache: repaints a picture after a prompt.
//
//   img2img models/emoji heart.png "blue heart" blue.png

#include <deepcache/deepcache.hpp>

#include <cstdio>
#include <exception>

int main(int argc, char** argv) try {
  if (argc != 5) {
    std::fprintf(stderr, "usage: img2img PACKAGE IMAGE.png PROMPT OUTPUT.png\n");
    return 2;
  }
  auto pipe = deepcache::StableDiffusionPipeline::load(argv[1]);
  deepcache::Helper helper(pipe);
  helper.set_params({.cache_interval = 3});
  helper.enable();

  deepcache::StableDiffusionParams params{.strength = 0.7};  // of the steps; the more, the freer
  deepcache::load_pictures(pipe, argv[2], "", params);
  const auto result = pipe(argv[3], params);
  deepcache::save_png(result.images[0], argv[4]);
  return 0;
} catch (const std::exception& error) {
  std::fprintf(stderr, "img2img: %s\n", error.what());
  return 2;
}
