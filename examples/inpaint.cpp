// Inpainting with DeepCache: paints anew what a mask marks in white, and keeps what is black.
//
//   inpaint models/emoji face.png mask.png "face with sunglasses" cool.png

#include <deepcache/deepcache.hpp>

#include <cstdio>
#include <exception>

int main(int argc, char** argv) try {
  if (argc != 6) {
    std::fprintf(stderr, "usage: inpaint PACKAGE IMAGE.png MASK.png PROMPT OUTPUT.png\n");
    return 2;
  }
  // Models made for inpainting take the picture as an input; any other keeps it by blending.
  auto pipe = deepcache::StableDiffusionPipeline::load(argv[1]);
  deepcache::Helper helper(pipe);
  helper.set_params({.cache_interval = 3});
  helper.enable();

  deepcache::StableDiffusionParams params;
  deepcache::load_pictures(pipe, argv[2], argv[3], params);
  deepcache::save_png(pipe(argv[4], params).images[0], argv[5]);
  return 0;
} catch (const std::exception& error) {
  std::fprintf(stderr, "inpaint: %s\n", error.what());
  return 2;
}
