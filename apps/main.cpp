// The command-line tool. Each subcommand is a file with a function that adds it.

#include <deepcache/cli.hpp>

#include "compare.hpp"
#include "generate.hpp"
#include "inspect.hpp"
#include "tune.hpp"

int main(int argc, char** argv) {
  CLI::App app("Diffusion UNets, several times faster without training", "deepcache");
  app.require_subcommand(1);
  deepcache::apps::add_generate(app);
  deepcache::apps::add_inspect(app);
  deepcache::apps::add_compare(app);
  int exit_code = 0;
  deepcache::apps::add_tune(app, exit_code);
  const int failure = deepcache::cli::run(app, argc, argv);
  return failure != 0 ? failure : exit_code;
}
