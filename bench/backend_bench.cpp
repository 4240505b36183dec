// A step of a compiled UNet beside the same step of the traced one, in turns in one process. See README.md.
//
//   backend_bench build/bench/sd15_narrow/unet.pt build/bench/sd15_narrow/unet.pt2

#include <ATen/Parallel.h>
#include <deepcache/cli.hpp>
#include <deepcache/helper.hpp>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <array>
#include <chrono>
#include <cstdio>
#include <limits>
#include <map>

namespace {

using Size = std::pair<std::int64_t, std::int64_t>;

struct Options {
  std::string traced, compiled, dtype = "float32";
  Size latent_size{32, 32}, text{77, 768};
  std::int64_t batch = 2, branch = 0;
  int threads = 2, rounds = 15;
};

const std::map<std::string, torch::Dtype> kDtypes{{"float32", torch::kFloat}, {"bfloat16", torch::kBFloat16}};

void add_flags(CLI::App& app, Options& o) {
  app.add_option("traced", o.traced, "unet.pt")->required();
  app.add_option("compiled", o.compiled, "unet.pt2, whose native code is run")->required();
  app.add_option("--dtype", o.dtype, "Of both")->check(CLI::IsMember(kDtypes))->capture_default_str();
  for (const auto& [flag, size] :
       std::initializer_list<std::pair<const char*, Size&>>{{"--latent-size", o.latent_size}, {"--text", o.text}})
    app.add_option(flag, size, "As 32x32; what the compiled one takes")->delimiter('x')->check(CLI::Range(1, 4096));
  app.add_option("--batch", o.batch, "Batch size")->check(CLI::PositiveNumber)->capture_default_str();
  app.add_option("--branch", o.branch, "cache_branch_id")->check(CLI::NonNegativeNumber)->capture_default_str();
  app.add_option("--threads", o.threads, "CPU threads")->check(CLI::PositiveNumber)->capture_default_str();
  app.add_option("--rounds", o.rounds, "Each runs every kind of step once")->check(CLI::PositiveNumber);
}

std::vector<c10::IValue> make_inputs(const Options& o) {
  torch::manual_seed(0);
  const auto dtype = kDtypes.at(o.dtype);
  return {torch::randn({o.batch, 4, o.latent_size.first, o.latent_size.second}).to(dtype), torch::tensor(500),
          torch::randn({o.batch, o.text.first, o.text.second}).to(dtype)};
}

double median(std::vector<double> values) {
  std::ranges::sort(values);
  return values[values.size() / 2];
}

void measure(const Options& o) {
  const auto dtype = kDtypes.at(o.dtype);
  std::array helpers{deepcache::Helper(deepcache::UNet::load(o.traced, torch::kCPU, dtype)),
                     deepcache::Helper(deepcache::UNet::load(o.compiled, {.dtype = dtype, .trust_native_code = true}))};
  for (auto& helper : helpers) {
    helper.set_params({.cache_interval = std::numeric_limits<std::int64_t>::max(), .cache_branch_id = o.branch});
    helper.enable();
  }
  const auto inputs = make_inputs(o);
  std::array<std::array<std::vector<double>, 2>, 2> times;  // full and cached, of traced and compiled
  constexpr int kWarmUp = 3;
  double error = 0;
  for (int round = -kWarmUp; round < o.rounds; ++round) {
    std::array<torch::Tensor, 2> outputs;
    for (std::size_t i = 0; i < helpers.size(); ++i) {
      helpers[i].reset();  // the next step is full, the one after it cached
      for (auto& list : times[i]) {
        outputs[i] = helpers[i].forward(inputs).toTensor();
        const auto milliseconds = helpers[i].stats().steps.back().milliseconds;
        if (round >= 0) list.push_back(milliseconds);
      }
    }
    const auto expected = outputs[0].to(torch::kDouble);
    error = ((outputs[1].to(torch::kDouble) - expected).norm() / expected.norm()).item<double>();
  }
  std::printf("%s, latents %lldx%lld, batch %lld, branch %lld, %d threads, %d rounds\n", o.dtype.c_str(),
              static_cast<long long>(o.latent_size.first), static_cast<long long>(o.latent_size.second),
              static_cast<long long>(o.batch), static_cast<long long>(o.branch), o.threads, o.rounds);
  for (std::size_t kind = 0; kind < 2; ++kind) {
    std::vector<double> ratios;
    for (std::size_t i = 0; i < times[0][kind].size(); ++i) ratios.push_back(times[1][kind][i] / times[0][kind][i]);
    std::printf("%-7s traced %9.2f ms   compiled %9.2f ms   compiled / traced %.3f\n", kind == 0 ? "full" : "cached",
                median(times[0][kind]), median(times[1][kind]), median(ratios));
  }
  std::printf("outputs differ by %.1e, by norm\n", error);
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app("A step of a compiled UNet beside the same step of the traced one", "backend_bench");
  Options options;
  add_flags(app, options);
  return deepcache::cli::run(app, argc, argv, [&] {
    at::set_num_threads(options.threads);
    measure(options);
  });
}
