// Text to video with DeepCache: frames of a moving scene, as PNG files.
//
//   txt2vid models/sd15-video "a panda playing the guitar on Times Square" frames
//
// The package is a Stable Diffusion, exported with tools/export.py --as text-to-video-zero.

#include <deepcache/deepcache.hpp>

#include <cstdio>
#include <exception>
#include <filesystem>
#include <string>

int main(int argc, char** argv) try {
  if (argc != 4) {
    std::fprintf(stderr, "usage: txt2vid PACKAGE PROMPT FOLDER\n");
    return 2;
  }
  auto pipe = deepcache::TextToVideoZeroPipeline::load(argv[1]);
  deepcache::Helper helper(pipe);
  helper.set_params({.cache_interval = 3});
  helper.enable();

  deepcache::TextToVideoZeroParams params{.video_length = 8};
  params.callback = [](const deepcache::PipelineStep& step) {
    std::fprintf(stderr, "\rstep %lld of %lld", static_cast<long long>(step.step_index + 1),
                 static_cast<long long>(step.num_steps));
    return true;
  };
  const auto frames = pipe(argv[2], params).frames;

  const std::filesystem::path folder = argv[3];
  std::filesystem::create_directories(folder);
  for (std::int64_t i = 0; i < frames.size(0); ++i)
    deepcache::save_png(frames[i], folder / ("frame-" + std::to_string(i) + ".png"));
  std::printf("\n%lld frames in %s\n", static_cast<long long>(frames.size(0)), argv[3]);
  return 0;
} catch (const std::exception& error) {
  std::fprintf(stderr, "txt2vid: %s\n", error.what());
  return 2;
}
