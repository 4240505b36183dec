#include "tune.hpp"

#include <deepcache/cli.hpp>
#include <deepcache/tune.hpp>

#include <fmt/ranges.h>

#include <cstdio>
#include <filesystem>
#include <memory>

#include "io/files.hpp"

namespace deepcache::apps {
namespace {

namespace fs = std::filesystem;

struct TuneFlags : cli::Options {
  TuneRequest tune = {};
  fs::path output = "policy.json";
  std::int64_t full_steps = 0;
  double min_psnr = 0, speedup = 0;
};

void print(const TuneResult& result) {
  fmt::print(
      "branch  full steps  speedup of the steps  uniform, dB  tuned, dB  held out: uniform  tuned  "
      "front\n");
  for (const auto& point : result.points)
    fmt::print("{:6}  {:10}  {:19.2f}x  {:11.2f}  {:9.2f}  {:17.2f}  {:5.2f}  {:>5}\n", point.policy.cache_branch_id,
               point.policy.full_steps.size(), point.speedup, point.uniform_psnr_db, point.tuned_psnr_db,
               point.held_out_uniform_psnr_db, point.held_out_psnr_db, point.on_front ? "*" : "");
  const auto& policy = result.best.policy;
  fmt::print("branch {}, full steps of {}: {}\n", policy.cache_branch_id, policy.num_steps,
             fmt::join(policy.full_steps, " "));
  if (policy.forecast_shares.empty()) return;
  fmt::print("shares of forecasts followed after each:");
  for (const auto& [common, difference] : policy.forecast_shares) fmt::print(" {:.1f}/{:.1f}", common, difference);
  fmt::print("\n");
}

void run(TuneFlags& flags, const CLI::App& command, int& exit_code) {
  auto& request = flags.tune;
  check_writable(flags.output);
  if (!request.progress.empty()) check_distinct({flags.output, request.progress});
  auto pipe = cli::load_model(flags);
  request.model =
      fmt::format("{} {} {}", flags.request.model, sha256(fs::path(flags.model) / "deepcache.json"), flags.dtype);
  request.prompts = flags.request.prompts;
  request.params = flags.request.params;
  request.params.callback = {};
  if (command.count("--full-steps") > 0) request.full_steps = flags.full_steps;
  if (command.count("--min-psnr") > 0) request.min_psnr = flags.min_psnr;
  if (command.count("--speedup") > 0) request.speedup = flags.speedup;
  if (cli::is_terminal(stderr))
    request.on_try = [](const TuneTry& tried) {
      fmt::print(stderr, "\r{} moves of a pass; try {}: {} full steps, {:.2f} dB  ",
                 progress_bar(tried.moves_done, tried.moves), tried.tries, tried.full_steps.size(), tried.psnr_db);
    };
  const auto result = tune(pipe, request);
  if (cli::is_terminal(stderr)) fmt::print(stderr, "\r{:110}\r", "");
  print(result);
  save_policy(result.best.policy, flags.output);
  fmt::print("{}\n", flags.output.string());
  if (result.reached) return;
  fmt::print(stderr, "what was asked for can't be reached; the best is {:.2f} dB at {:.2f}x\n",
             result.best.tuned_psnr_db, result.best.speedup);
  exit_code = 3;
}

}  // namespace

void add_tune(CLI::App& app, int& exit_code) {
  auto* command = app.add_subcommand(
      "tune", "Finds which steps of a run to compute in full, and how far to follow forecasts, by trying");
  auto flags = std::make_shared<TuneFlags>();
  cli::add_request_flags(*command, *flags);
  cli::add_load_flags(*command, *flags);
  auto* target = command->add_option_group("target")->require_option(1);
  target->add_option("--full-steps", flags->full_steps, "Finds the best places of so many");
  target->add_option("--min-psnr", flags->min_psnr,
                     "Finds as few as give this mean PSNR, in dB, to the uncached pictures");
  target->add_option("--speedup", flags->speedup, "Of the steps, by multiply-accumulates: finds as many as allow it");
  command
      ->add_option("--cache-branch-id", flags->tune.cache_branch_ids,
                   "Skip branches to try, such as 0,-1; -1 forecasts the output; default: 0, the shallowest")
      ->delimiter(',')
      ->allow_extra_args(false);
  command->add_option("--forecast-order", flags->tune.forecast_order, "Of the polynomial that cached steps follow")
      ->capture_default_str();
  command->add_option("-o,--output", flags->output, "The policy, for --cache-policy")->capture_default_str();
  command->add_option("--progress", flags->tune.progress, "File that keeps what was tried, to go on from");
  command->callback([command, flags, &exit_code] { run(*flags, *command, exit_code); });
}

}  // namespace deepcache::apps
