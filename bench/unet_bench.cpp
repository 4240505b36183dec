// What a cached step of a UNet costs beside a full one, and what the helper adds in time and memory. See README.md.
//
//   unet_bench --unet build/bench/sd15/unet.pt --rounds 15
//   unet_bench --package models/emoji --latent-size 16x16 --text 24x96 --rounds 300

#include <ATen/Parallel.h>
#include <deepcache/helper.hpp>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <fstream>
#include <nlohmann/json.hpp>

#include "core/graph_cut.hpp"
#include "models/model_package.hpp"

#ifdef __linux__
#include <malloc.h>
#include <unistd.h>
#endif

namespace fs = std::filesystem;
using Inputs = std::vector<c10::IValue>;

struct Options {
  fs::path unet, package, json;
  std::string dtype, latent_size = "32x32", text = "77x768";
  std::int64_t batch = 2, branch = 0;
  int threads = 2, rounds = 15;
};

struct Times {
  std::vector<double> plain, full, cached, bare;  // milliseconds, by round
};

struct Memory {  // bytes; resident memory is negative where it isn't known
  std::int64_t weights = 0, feature = 0, loading = 0, plain = 0, helper = 0;
};

const std::map<std::string, torch::Dtype> kDtypes{
    {"float32", torch::kFloat}, {"float16", torch::kHalf}, {"bfloat16", torch::kBFloat16}};

void add_flags(CLI::App& app, Options& o) {
  const auto size = CLI::Validator(
      [](const std::string& text) {
        int a = 0, b = 0, end = 0;
        const bool good = std::sscanf(text.c_str(), "%dx%d%n", &a, &b, &end) == 2 &&
                          static_cast<std::size_t>(end) == text.size() && a > 0 && b > 0;
        return good ? "" : "\"" + text + "\" isn't two numbers as in 32x32";
      },
      "AxB");
  auto* unet = app.add_option("--unet", o.unet, "A traced UNet's file")->check(CLI::ExistingFile);
  auto* package = app.add_option("--package", o.package, "A model package, whose UNet is taken");
  unet->excludes(package);
  app.add_option("--dtype", o.dtype, "Of the weights; default: the file's or the package's")->check(CLI::IsMember(kDtypes));
  app.add_option("--latent-size", o.latent_size, "Height x width")->check(size)->capture_default_str();
  app.add_option("--batch", o.batch, "Batch size")->check(CLI::PositiveNumber)->capture_default_str();
  app.add_option("--text", o.text, "Prompt length x width of its embedding")->check(size)->capture_default_str();
  app.add_option("--threads", o.threads, "CPU threads")->check(CLI::PositiveNumber)->capture_default_str();
  app.add_option("--branch", o.branch, "cache_branch_id")->capture_default_str();
  app.add_option("--rounds", o.rounds, "Each runs every kind of step once")->check(CLI::PositiveNumber)->capture_default_str();
  app.add_option("--json", o.json, "Writes the numbers to this file too");
}

std::pair<std::int64_t, std::int64_t> parse_size(const std::string& text) {
  const auto cross = text.find('x');
  return {std::stoll(text.substr(0, cross)), std::stoll(text.substr(cross + 1))};
}

torch::jit::Module load(const Options& o) {
  std::optional<torch::Dtype> dtype;
  if (!o.dtype.empty()) dtype = kDtypes.at(o.dtype);
  if (o.package.empty()) return deepcache::load_module(o.unet, dtype);
  const deepcache::ModelPackage package(o.package);
  return deepcache::load_module(package.file("unet/model.pt"), dtype.value_or(package.dtype()));
}

Inputs make_inputs(const Options& o, torch::Dtype dtype) {
  torch::manual_seed(0);
  const auto [height, width] = parse_size(o.latent_size);
  const auto [length, features] = parse_size(o.text);
  return {torch::randn({o.batch, 4, height, width}).to(dtype), torch::tensor(500),
          torch::randn({o.batch, length, features}).to(dtype)};
}

template <typename Step>
double milliseconds(const Step& step) {
  const auto start = std::chrono::steady_clock::now();
  step();
  return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count();
}

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  const auto middle = values.size() / 2;
  return values.size() % 2 == 1 ? values[middle] : (values[middle - 1] + values[middle]) / 2;
}

template <typename Function>
double paired_median(const std::vector<double>& a, const std::vector<double>& b, const Function& function) {
  std::vector<double> values;
  for (std::size_t i = 0; i < a.size(); ++i) values.push_back(function(a[i], b[i]));
  return median(values);
}

/// Resident memory once the allocator has given back what it holds in reserve; negative where it isn't known.
std::int64_t resident_bytes() {
#ifdef __linux__
#ifdef __GLIBC__
  malloc_trim(0);
#endif
  std::int64_t total = 0, resident = -1;
  std::ifstream("/proc/self/statm") >> total >> resident;
  return resident < 0 ? -1 : resident * sysconf(_SC_PAGESIZE);
#else
  return -1;
#endif
}

/// After a few steps, when buffers that LibTorch and oneDNN keep have been made. The allocator's leftovers differ by some
/// pages from one step to the next, hence the median.
template <typename Step>
std::int64_t settled_bytes(const Step& step) {
  std::vector<double> readings;
  for (int i = 0; i < 8; ++i) {
    step();
    if (i >= 3) readings.push_back(static_cast<double>(resident_bytes()));
  }
  return static_cast<std::int64_t>(median(readings));
}

void check_equal(const torch::Tensor& actual, const torch::Tensor& expected) {
  if (!torch::equal(actual, expected)) throw std::runtime_error("two ways to compute a step differ: nothing to compare");
}

/// In turns, so that whatever else the machine does meets all four alike. The cached step and the bare one each follow a
/// full step, which leaves as little of the shallow branch's weights in the processor's caches as in a real run.
Times measure_steps(const Options& o, const deepcache::UNet& plain, deepcache::Helper& helper,
                    const deepcache::Program& bare, const Inputs& inputs, const torch::Tensor& feature) {
  auto bare_inputs = inputs;
  bare_inputs.emplace_back(feature);
  Times times;
  for (int round = -1; round < o.rounds; ++round) {
    torch::Tensor outputs[4];
    helper.reset();
    const double t[] = {
        milliseconds([&] { outputs[0] = plain.forward(inputs).toTensor(); }),
        milliseconds([&] { outputs[1] = bare.run(bare_inputs).at(0).toTensor(); }),
        milliseconds([&] { outputs[2] = helper.forward(inputs).toTensor(); }),
        milliseconds([&] { outputs[3] = helper.forward(inputs).toTensor(); }),
    };
    if (round < 0) {  // the first calls are slower; their outputs must agree, as the inputs are the same
      for (const auto& output : outputs) check_equal(output, outputs[0]);
      continue;
    }
    times.plain.push_back(t[0]);
    times.bare.push_back(t[1]);
    times.full.push_back(t[2]);
    times.cached.push_back(t[3]);
  }
  return times;
}

/// What the helper does around a cached step, in milliseconds: measured on a network that does next to nothing, with
/// inputs of the same kinds, because it is microseconds, which no difference of whole steps can show.
double measure_bookkeeping() {
  torch::jit::Module module("tiny");
  module.define(R"(
    def forward(self, sample, timestep, text):
        return torch.cat([-sample, sample], 1)
  )");
  module.eval();
  const Inputs inputs{torch::zeros({2, 1, 1, 1}), torch::tensor(500), torch::zeros({2, 1, 1})};
  auto bare_inputs = inputs;
  bare_inputs.emplace_back(-inputs[0].toTensor());
  const deepcache::Program bare(deepcache::cut(deepcache::inference_graph(module), 0).shallow, "bare");
  deepcache::Helper helper(module);
  helper.set_params({.cache_interval = 1'000'000});
  helper.enable();

  constexpr int rounds = 200, steps = 50;
  std::vector<double> differences;
  for (int round = 0; round < rounds; ++round) {
    helper.reset();
    helper.forward(inputs);
    const auto cached = milliseconds([&] {
      for (int i = 0; i < steps; ++i) helper.forward(inputs);
    });
    const auto without = milliseconds([&] {
      for (int i = 0; i < steps; ++i) bare.run(bare_inputs);
    });
    differences.push_back((cached - without) / steps);
  }
  return median(differences);
}

void run(const Options& o) {
  at::set_num_threads(o.threads);
  Memory memory;
  const auto before = resident_bytes();
  torch::jit::Module module;
  std::optional<deepcache::UNet> unet;
  const auto load_time = milliseconds([&] {
    module = load(o);
    unet.emplace(module);
  });
  memory.loading = resident_bytes() - before;
  for (const auto& tensor : module.parameters()) memory.weights += static_cast<std::int64_t>(tensor.nbytes());
  for (const auto& tensor : module.buffers()) memory.weights += static_cast<std::int64_t>(tensor.nbytes());
  const auto inputs = make_inputs(o, (*module.parameters().begin()).scalar_type());
  const auto profile = unet->profile(inputs).at(static_cast<std::size_t>(o.branch));
  memory.feature = profile.feature_bytes;

  const auto plain = unet->share_weights();
  memory.plain = settled_bytes([&] { plain.forward(inputs); });
  deepcache::Helper helper(*unet);
  helper.set_params({.cache_interval = 2, .cache_branch_id = o.branch});
  helper.enable();
  memory.helper = settled_bytes([&] {
    helper.reset();
    helper.forward(inputs);
    helper.forward(inputs);
  });

  const auto graph = deepcache::inference_graph(module);
  std::optional<deepcache::Program> full, bare;
  const auto cut_time = milliseconds([&] {
    const auto cut = deepcache::cut(graph, o.branch);
    full.emplace(cut.full, "full");
    bare.emplace(cut.shallow, "bare");
  });
  const auto feature = full->run(inputs).at(1).toTensor();
  const auto times = measure_steps(o, plain, helper, *bare, inputs, feature);
  std::printf("load %.0f ms cut %.1f ms; weights %.1f MB, loading %.1f MB, plain %.1f, helper %.1f feature %.1f\n", load_time, cut_time, memory.weights/1e6, memory.loading/1e6, memory.plain/1e6, memory.helper/1e6, memory.feature/1e6);
  std::printf("plain %.2f full %.2f cached %.2f bare %.2f bookkeeping %.4f\n", median(times.plain), median(times.full), median(times.cached), median(times.bare), measure_bookkeeping());
  std::printf("macs full %.2f+%.2f cached %.2f+%.2f\n", profile.full_step.weights/1e9,profile.full_step.attention/1e9,profile.cached_step.weights/1e9,profile.cached_step.attention/1e9);
}

int main(int argc, char** argv) {
  CLI::App app("What a cached step of a UNet costs beside a full one, and what the helper adds");
  Options options;
  add_flags(app, options);
  try {
    app.parse(argc, argv);
    run(options);
    return 0;
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : 2;
  } catch (const c10::Error& error) {
    std::fprintf(stderr, "unet_bench: %s\n", error.what_without_backtrace());
  } catch (const std::exception& error) {
    std::fprintf(stderr, "unet_bench: %s\n", error.what());
  }
  return 2;
}
