// Pictures as a video: frames that lie in files, PNG or JPEG, in the order in which they are named.
//
//   video 7 cat.mp4 cat/*.png        (.mp4, .webm, .png or .apng, or a folder; 7 frames a second)

#include <deepcache/image.hpp>
#include <deepcache/video.hpp>

#include <ATen/ops/stack.h>

#include <charconv>
#include <cstdio>
#include <exception>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

namespace {

double number(std::string_view text) {
  double value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size())
    throw std::invalid_argument("FPS must be a number, got \"" + std::string(text) + "\"");
  return value;
}

}  // namespace

int main(int argc, char** argv) try {
  if (argc < 4) {
    std::fprintf(stderr, "usage: video FPS OUTPUT FRAME...\n");
    return 2;
  }
  const auto fps = number(argv[1]);
  std::vector<torch::Tensor> frames;
  for (int i = 3; i < argc; ++i) {
    frames.push_back(deepcache::load_image(argv[i]));
    if (frames.back().sizes() != frames.front().sizes())
      throw std::invalid_argument(std::string("all frames must have the size of the first one, not so ") + argv[i]);
    // What is wrong with the request is found before the other frames are read.
    if (i == 3) deepcache::check_video({argc - 3, 3, frames[0].size(1), frames[0].size(2)}, argv[2], fps);
  }
  deepcache::save_video(at::stack(frames), argv[2], fps);
  return 0;
} catch (const std::exception& error) {
  std::fprintf(stderr, "video: %s\n", error.what());
  return 2;
}
