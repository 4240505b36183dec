// Text to video with DeepCache: frames of a moving scene.
//
//   txt2vid models/sd15-video "a panda playing the guitar on Times Square" panda.mp4
//
// The package is a Stable Diffusion, exported with tools/export.py --as text-to-video-zero.

#include <deepcache/deepcache.hpp>

#include <cstdio>
#include <exception>

int main(int argc, char** argv) try {
  if (argc != 4) {
    std::fprintf(stderr, "usage: txt2vid PACKAGE PROMPT OUTPUT\n");
    return 2;
  }
  auto pipe = deepcache::TextToVideoZeroPipeline::load(argv[1]);
  deepcache::Helper helper(pipe);
  helper.set_params({.cache_interval = 3});
  helper.enable();

  const auto frames = pipe(argv[2], {.video_length = 8}).frames;
  deepcache::save_video(frames, argv[3], 4);  // frames a second
  return 0;
} catch (const std::exception& error) {
  std::fprintf(stderr, "txt2vid: %s\n", error.what());
  return 2;
}
