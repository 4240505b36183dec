// The command-line tool. Each subcommand is a file with a function that adds it.

#include <deepcache/cli.hpp>

#include "generate.hpp"
#include "inspect.hpp"

int main(int argc, char** argv) {
  CLI::App app("Diffusion UNets, several times faster without training", "deepcache");
  app.require_subcommand(1);
  deepcache::apps::add_generate(app);
  deepcache::apps::add_inspect(app);
  return deepcache::cli::run(app, argc, argv);
}
