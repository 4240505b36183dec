// The command-line tool. Each subcommand is a file with a function that adds it.

#include <c10/util/Exception.h>

#include <CLI/CLI.hpp>
#include <cstdio>

#include "inspect.hpp"

int main(int argc, char** argv) {
  CLI::App app("Diffusion UNets, several times faster without training", "deepcache");
  app.require_subcommand(1);
  deepcache::apps::add_inspect(app);
  try {
    app.parse(argc, argv);  // runs the subcommand
    return 0;
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : 2;
  } catch (const c10::Error& error) {
    std::fprintf(stderr, "deepcache: %s\n", error.what_without_backtrace());
  } catch (const std::exception& error) {
    std::fprintf(stderr, "deepcache: %s\n", error.what());
  }
  return 2;
}
