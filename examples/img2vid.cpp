// Image to video with DeepCache: makes a picture move.
//
//   img2vid models/svd-xt rocket.png rocket.mp4      (.mp4, .webm, .png or .apng, or a folder)

#include <deepcache/deepcache.hpp>

#include <charconv>
#include <cstdint>
#include <cstdio>
#include <exception>
#include <stdexcept>
#include <string>
#include <string_view>

namespace {

std::int64_t pixels(std::string_view text) {
  std::int64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size())
    throw std::invalid_argument("HEIGHT and WIDTH must be whole numbers, got \"" + std::string(text) + "\"");
  return value;
}

}  // namespace

int main(int argc, char** argv) try {
  if (argc != 4 && argc != 6) {
    std::fprintf(stderr, "usage: img2vid PACKAGE IMAGE OUTPUT [HEIGHT WIDTH]\n");
    return 2;
  }
  deepcache::StableVideoDiffusionParams params{.fps = 7, .motion_bucket_id = 127, .decode_chunk_size = 2};
  if (argc == 6) {  // 576 and 1024 otherwise
    params.height = pixels(argv[4]);
    params.width = pixels(argv[5]);
  }
  deepcache::enable_logging();  // says if the picture is stretched
  auto pipe = deepcache::StableVideoDiffusionPipeline::load(argv[1]);
  deepcache::Helper helper(pipe);
  helper.set_params({.cache_interval = 3});
  helper.enable();

  const auto result = pipe(deepcache::load_image(argv[2]), params);
  deepcache::save_video(result.frames[0], argv[3], static_cast<double>(params.fps));
  return 0;
} catch (const std::exception& error) {
  std::fprintf(stderr, "img2vid: %s\n", error.what());
  return 2;
}
