// Image to video with DeepCache: makes a picture move.
//
//   img2vid models/svd-xt rocket.png rocket.mp4      (.mp4, .webm, .png or .apng, or a folder)

#include <deepcache/deepcache.hpp>

#include <cstdio>
#include <exception>
#include <string>

int main(int argc, char** argv) try {
  if (argc != 4 && argc != 6) {
    std::fprintf(stderr, "usage: img2vid PACKAGE IMAGE OUTPUT [HEIGHT WIDTH]\n");
    return 2;
  }
  deepcache::enable_logging();  // says if the picture is stretched
  auto pipe = deepcache::StableVideoDiffusionPipeline::load(argv[1]);
  deepcache::Helper helper(pipe);
  helper.set_params({.cache_interval = 3});
  helper.enable();

  deepcache::StableVideoDiffusionParams params{.fps = 7, .motion_bucket_id = 127, .decode_chunk_size = 2};
  if (argc == 6) {  // 576 and 1024 otherwise
    params.height = std::stoll(argv[4]);
    params.width = std::stoll(argv[5]);
  }
  const auto result = pipe(deepcache::load_image(argv[2]), params);
  deepcache::save_video(result.frames[0], argv[3], static_cast<double>(params.fps));
  return 0;
} catch (const std::exception& error) {
  std::fprintf(stderr, "img2vid: %s\n", error.what());
  return 2;
}
