// Pictures of an ImageNet class with DeepCache, on a package of CompVis's class-conditional latent diffusion model.
//
//   class2img models/cin256 207 retriever.png

#include <deepcache/deepcache.hpp>

#include <charconv>
#include <cstdint>
#include <cstdio>
#include <exception>
#include <string_view>

int main(int argc, char** argv) try {
  const std::string_view text = argc == 4 ? argv[2] : "";
  std::int64_t label = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), label);
  if (error != std::errc() || end != text.data() + text.size()) {
    std::fprintf(stderr, "usage: class2img PACKAGE CLASS_LABEL OUTPUT.png\n");
    return 2;
  }
  auto pipe = deepcache::ClassConditionalPipeline::load(argv[1]);
  deepcache::Helper helper(pipe);
  helper.set_params({.cache_interval = 5});
  helper.enable();

  const auto result = pipe(label, {.num_inference_steps = 250, .guidance_scale = 1.5});
  deepcache::save_png(result.images[0], argv[3]);
  return 0;
} catch (const std::exception& error) {
  std::fprintf(stderr, "class2img: %s\n", error.what());
  return 2;
}
