#include "compare.hpp"

#include <deepcache/cli.hpp>
#include <deepcache/compare.hpp>
#include <deepcache/image.hpp>

#include <fmt/format.h>

#include <cstdio>
#include <memory>
#include <vector>

#include "io/files.hpp"

namespace deepcache::apps {
namespace {

namespace fs = std::filesystem;

struct CompareFlags : cli::Options {
  CompareRequest compare = {};
  std::vector<fs::path> policies = {};
  fs::path page = "comparison.html", contact_sheet = {}, report = {};
};

void run(CompareFlags& flags) {
  std::vector<fs::path> outputs{flags.page, flags.contact_sheet, flags.report};
  std::erase(outputs, fs::path());
  check_png(flags.contact_sheet);
  check_distinct(outputs);
  for (const auto& file : outputs) check_writable(file);
  auto pipe = cli::load_model(flags);
  auto& request = flags.compare;
  request.model = flags.request.model;
  request.prompts = flags.request.prompts;
  request.params = flags.request.params;
  request.params.callback = {};
  for (const auto& file : flags.policies)
    request.further.push_back({.name = "tuned, " + file.stem().string(),
                               .kind = "tuned",
                               .cache = load_policy(file).cache_params(pipe.unet())});
  if (cli::is_terminal(stderr))
    request.on_run = [](std::int64_t number, std::int64_t count, const Way& way) {
      fmt::print(stderr, "\rrun {} of {}: {:40}", number + 1, count, way.name);
    };
  const auto comparison = compare(pipe, request);
  if (cli::is_terminal(stderr)) fmt::print(stderr, "\r{:60}\r", "");
  fmt::print("{}\n", comparison.table());
  if (!flags.report.empty()) save_text(comparison.json(), flags.report);
  if (!flags.contact_sheet.empty()) save_png(comparison.contact_sheet(), flags.contact_sheet);
  save_text(comparison.html(), flags.page);
  fmt::print("{}\n", flags.page.string());
}

}  // namespace

void add_compare(CLI::App& app) {
  auto* command = app.add_subcommand(
      "compare", "Runs a model uncached, as DeepCache, with forecasts in four ways, and in fewer steps, side by side");
  auto flags = std::make_shared<CompareFlags>();
  cli::add_request_flags(*command, *flags);
  cli::add_load_flags(*command, *flags);
  auto& request = flags->compare;
  command
      ->add_option("--intervals", request.intervals,
                   "Full steps every so many, as DeepCache and with forecasts; default: 2,3,5,10")
      ->delimiter(',')
      ->allow_extra_args(false);
  command->add_option("--tolerances", request.tolerances, "Of adaptive full steps; default: 0.1,0.18,0.3")
      ->delimiter(',')
      ->allow_extra_args(false);
  command->add_option("--cache-branch-id", request.cache_branch_id, "Skip branch to cut at; 0: shallowest")
      ->capture_default_str();
  command->add_option("--forecast-order", request.forecast_order, "Of forecasts and adaptive full steps, 1 or 2")
      ->capture_default_str();
  command->add_option("--cache-policy", flags->policies, "File that `deepcache tune` wrote; may be given several times")
      ->check(CLI::ExistingFile)
      ->allow_extra_args(false);
  command->add_option("-o,--output", flags->page, "Page with table, plots and pictures, in one file")
      ->capture_default_str();
  command->add_option("--contact-sheet", flags->contact_sheet, "PNG of the first prompts' pictures");
  command->add_option("--report", flags->report, "JSON file: each way's, and each prompt's, figures");
  command->callback([flags] { run(*flags); });
}

}  // namespace deepcache::apps
