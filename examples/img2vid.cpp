// Image to video with DeepCache: makes a picture move, frame by frame in PNG files.
//
//   img2vid models/svd-xt rocket.png frames      # frames/00.png, frames/01.png, ...

#include <deepcache/deepcache.hpp>

#include <array>
#include <cstdio>
#include <exception>
#include <filesystem>
#include <string>

namespace {

/// Frames [F, 3, H, W] as 00.png, 01.png, ...
void save_frames(const torch::Tensor& frames, const std::filesystem::path& folder) {
  std::filesystem::create_directories(folder);
  for (std::int64_t i = 0; i < frames.size(0); ++i) {
    std::array<char, 32> name{};
    std::snprintf(name.data(), name.size(), "%02lld.png", static_cast<long long>(i));
    deepcache::save_png(frames[i], folder / name.data());
  }
}

}  // namespace

int main(int argc, char** argv) try {
  if (argc != 4 && argc != 6) {
    std::fprintf(stderr, "usage: img2vid PACKAGE IMAGE.png FOLDER [HEIGHT WIDTH]\n");
    return 2;
  }
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
  save_frames(result.frames[0], argv[3]);

  const auto stats = helper.stats();
  std::printf("%lld full and %lld cached steps\n", static_cast<long long>(stats.full_steps),
              static_cast<long long>(stats.cached_steps));
  return 0;
} catch (const std::exception& error) {
  std::fprintf(stderr, "img2vid: %s\n", error.what());
  return 2;
}
