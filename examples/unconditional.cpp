// Pictures without a prompt, with DeepCache: DDPM's models of CIFAR-10, LSUN, or any other UNet2DModel.
//
//   unconditional models/church 4 church

#include <deepcache/deepcache.hpp>

#include <charconv>
#include <cstdint>
#include <cstdio>
#include <exception>
#include <string>
#include <string_view>

int main(int argc, char** argv) try {
  const std::string_view text = argc == 4 ? argv[2] : "";
  std::int64_t count = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), count);
  if (error != std::errc() || end != text.data() + text.size()) {
    std::fprintf(stderr, "usage: unconditional PACKAGE COUNT OUTPUT\nwrites OUTPUT-0.png, OUTPUT-1.png, ...\n");
    return 2;
  }
  auto pipe = deepcache::UnconditionalPipeline::load(argv[1], {.scheduler = "ddim"});
  deepcache::Helper helper(pipe);
  helper.set_params({.cache_interval = 5, .cache_branch_id = 2});  // as the paper of DeepCache runs these models
  helper.enable();

  const auto result = pipe({.batch_size = count, .num_inference_steps = 100});
  for (std::int64_t i = 0; i < result.images.size(0); ++i) {
    const auto colours = result.images[i].expand({3, -1, -1});  // of greys too
    deepcache::save_png(colours, std::string(argv[3]) + "-" + std::to_string(i) + ".png");
  }
  return 0;
} catch (const std::exception& error) {
  std::fprintf(stderr, "unconditional: %s\n", error.what());
  return 2;
}
