// Text to image with DeepCache, on a model package made by tools/export.py.
//
//   txt2img -m models/emoji -p "red heart" --compare -o heart.png

#include <deepcache/cli.hpp>

int main(int argc, char** argv) {
  CLI::App app("Text to image with DeepCache", "txt2img");
  deepcache::cli::Options options;
  deepcache::cli::add_flags(app, options);
  return deepcache::cli::run(app, argc, argv, [&] {
    auto pipe = deepcache::cli::load_pipeline(options);
    deepcache::generate(pipe, options.request);
  });
}
