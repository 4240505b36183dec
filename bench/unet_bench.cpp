// What a cached step of a UNet costs beside a full one, and what the helper adds in time and memory. See README.md.
//
//   unet_bench --unet build/bench/sd15/unet.pt --rounds 15
//   unet_bench --package models/emoji --latent-size 16x16 --text 24x96 --rounds 300

#include <ATen/Parallel.h>
#include <deepcache/cli.hpp>
#include <deepcache/helper.hpp>
#include <deepcache/run_report.hpp>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <limits>
#include <nlohmann/json.hpp>

#include "core/conditioning.hpp"
#include "core/graph_cut.hpp"
#include "core/macs.hpp"
#include "core/packed_weights.hpp"
#include "models/model_package.hpp"
#include "operator_profile.hpp"
#include "resident_memory.hpp"
#include "serve.hpp"

namespace fs = std::filesystem;
namespace bench = deepcache::bench;
using Inputs = std::vector<c10::IValue>;
using Size = std::pair<std::int64_t, std::int64_t>;

namespace {

struct Options {
  fs::path unet, package, json;
  std::string dtype;
  Size latent_size{32, 32}, text{77, 768};
  std::int64_t batch = 2;
  bench::StepOptions steps;
  int rounds = 15;
  bool profile = false, serve = false;
};

struct Times {  // milliseconds, by round
  std::vector<double> plain, full, cached, bare;
  std::vector<double> matmul;       // of two square matrices, kMatrix wide
  std::vector<double> bookkeeping;  // what the helper does before and after the network in a cached step
};

/// Bytes; negative where they aren't known.
struct Resident {
  double settled = -1;  // between steps
  double peak = -1;     // within them
};

struct Result {
  double weights = 0;      // bytes, buffers too
  double activations = 0;  // the most bytes that a full step's tensors take at a time
  double load_ms = 0, load_bytes = -1, cut_ms = 0;
  deepcache::BranchProfile profile;
  Resident plain, helper;
  Times times;
  std::vector<bench::OperatorTime> full_operators, cached_operators;
};

constexpr std::int64_t kMatrix = 2048, kMatrixMacs = kMatrix * kMatrix * kMatrix;

const std::map<std::string, torch::Dtype> kDtypes{
    {"float32", torch::kFloat}, {"float16", torch::kHalf}, {"bfloat16", torch::kBFloat16}};

std::string text_of(const Size& size) {
  return std::to_string(size.first) + "x" + std::to_string(size.second);
}

void add_flags(CLI::App& app, Options& o) {
  const auto add_size = [&](const char* flag, Size& size, const char* description) {
    app.add_option(flag, size, description)->delimiter('x')->check(CLI::Range(1, 4096))->default_str(text_of(size));
  };
  auto* model = app.add_option_group("model")->require_option(1);
  model->add_option("--unet", o.unet, "A traced UNet's file");
  model->add_option("--package", o.package, "A model package, whose UNet is taken");
  app.add_option("--dtype", o.dtype, "Of the weights, if not the file's or the package's")
      ->check(CLI::IsMember(kDtypes));
  add_size("--latent-size", o.latent_size, "Height x width, as 32x32");
  app.add_option("--batch", o.batch, "Batch size")->check(CLI::PositiveNumber)->capture_default_str();
  add_size("--text", o.text, "Prompt length x width of its embedding");
  app.add_option("--threads", o.steps.threads, "CPU threads")->check(CLI::PositiveNumber)->capture_default_str();
  app.add_option("--branch", o.steps.cache_branch_id, "cache_branch_id")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  app.add_option("--rounds", o.rounds, "Each runs every kind of step once")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  app.add_flag("--profile", o.profile, "Says where a full step's time goes, by operator");
  auto* serve =
      app.add_flag("--serve", o.serve,
                   "For each line read, full, cached or run, writes the milliseconds of such a step, or of a run");
  app.add_option("--steps", o.steps.steps, "Of a run")->needs(serve)->capture_default_str();
  app.add_option("--interval", o.steps.cache_interval, "Of a run")->needs(serve)->capture_default_str();
  app.add_option("--helpers", o.steps.helpers, "That run at a time, in a thread each, and share the CPU threads")
      ->needs(serve)
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  app.add_option("--json", o.json, "Writes the numbers to this file too");
}

struct Source {
  fs::path file;
  std::optional<torch::Dtype> dtype;  // of the weights, if not the file's
};

Source source_of(const Options& o) {
  std::optional<torch::Dtype> dtype;
  if (!o.dtype.empty()) dtype = kDtypes.at(o.dtype);
  if (o.package.empty()) return {o.unet, dtype};
  const deepcache::ModelPackage package(o.package);
  return {package.file("unet/model.pt"), dtype.value_or(package.dtype())};
}

torch::jit::Module load_module(const Source& source) {
  return deepcache::load_module(source.file, source.dtype);
}

deepcache::UNet load_unet(const Source& source) {
  auto unet = deepcache::UNet::load(source.file, {.dtype = source.dtype});
  deepcache::keep_freed_memory();
  return unet;
}

torch::Dtype dtype_of(const torch::jit::Module& module) {
  return (*module.parameters().begin()).scalar_type();
}

Inputs make_inputs(const Options& o, torch::Dtype dtype) {
  torch::manual_seed(0);
  const auto [height, width] = o.latent_size;
  const auto [length, features] = o.text;
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
  std::ranges::sort(values);
  const auto middle = values.size() / 2;
  return values.size() % 2 == 1 ? values[middle] : (values[middle - 1] + values[middle]) / 2;
}

template <typename Function>
double paired_median(const std::vector<double>& a, const std::vector<double>& b, const Function& function) {
  std::vector<double> values;
  for (std::size_t i = 0; i < a.size(); ++i) values.push_back(function(a[i], b[i]));
  return median(values);
}

/// After a few steps, when LibTorch and oneDNN have made the buffers that they keep. The allocator's leftovers differ
/// by some pages from one step to the next, hence the medians.
template <typename Step>
Resident measure_memory(const Step& step) {
  std::vector<double> settled, peak;
  for (int i = 0; i < 8; ++i) {
    bench::forget_peak();
    step();
    const auto most = bench::peak_bytes();
    if (i < 3) continue;
    peak.push_back(most);
    settled.push_back(bench::resident_bytes());
  }
  return {median(settled), median(peak)};
}

/// The graphs as the helper runs them, without the helper, on inputs that have the conditioning already.
struct Bare {
  deepcache::Program full, cached;
  Inputs inputs;
};

/// In turns, so that whatever else the machine does meets all alike. A cached step always follows its full one, which
/// leaves in the processor's caches what it leaves there in a real run: little of the weights, and some of the feature.
Times measure_steps(const Options& o, const deepcache::UNet& plain, deepcache::Helper& helper, const Bare& bare,
                    const Inputs& inputs) {
  Times times;
  torch::Tensor expected, output;
  const auto time = [&](std::vector<double>& list, const auto& step) {
    list.push_back(milliseconds([&] { output = step(); }));
  };
  const auto with_helper = [&] {
    time(times.full, [&] { return deepcache::first_tensor(helper.forward(inputs)); });
    time(times.cached, [&] { return deepcache::first_tensor(helper.forward(inputs)); });
  };
  const auto matrix = torch::randn({kMatrix, kMatrix}).to(inputs.at(0).toTensor().scalar_type());
  const auto without = [&] {
    auto with_feature = bare.inputs;
    with_feature.push_back(bare.full.run(bare.inputs).at(1));
    time(times.bare, [&] { return deepcache::first_tensor(bare.cached.run(with_feature).at(0)); });
  };
  for (int round = -1; round < o.rounds; ++round) {
    if (round == 0) {  // the first calls are slower
      times = {};
      helper.reset();
    }
    times.matmul.push_back(milliseconds([&] { torch::mm(matrix, matrix); }));
    time(times.plain, [&] { return deepcache::first_tensor(plain.forward(inputs)); });
    expected = output;
    for (const bool helper_now : {round % 2 == 0, round % 2 != 0}) {
      helper_now ? with_helper() : without();
      if (!torch::equal(output, expected)) throw std::runtime_error("a cached step's output isn't the full one's");
    }
  }
  // No difference of whole steps shows microseconds; the helper's own clock, which leaves them out, does.
  for (const auto& step : helper.stats().steps)
    if (!step.full) times.bookkeeping.push_back(times.cached[times.bookkeeping.size()] - step.milliseconds);
  return times;
}

Result measure(const Options& o) {
  Result r;
  const auto source = source_of(o);
  Inputs inputs;
  {
    const auto module = load_module(source);
    for (const auto& tensor : module.parameters()) r.weights += static_cast<double>(tensor.nbytes());
    for (const auto& tensor : module.buffers()) r.weights += static_cast<double>(tensor.nbytes());
    inputs = make_inputs(o, dtype_of(module));
    r.activations = static_cast<double>(deepcache::count_macs(deepcache::inference_graph(module), inputs).peak_bytes);
  }
  const auto before = bench::resident_bytes();
  std::optional<deepcache::UNet> unet;
  r.load_ms = milliseconds([&] { unet.emplace(load_unet(source)); });
  if (before >= 0) r.load_bytes = bench::resident_bytes() - before;

  deepcache::Helper helper(*unet);
  helper.set_params({.cache_interval = 2, .cache_branch_id = o.steps.cache_branch_id});
  const auto plain = unet->share_weights();
  r.profile = unet->profile(inputs)[static_cast<std::size_t>(o.steps.cache_branch_id)];
  r.plain = measure_memory([&] { plain.forward(inputs); });
  helper.enable();
  r.helper = measure_memory([&] {
    helper.reset();
    helper.forward(inputs);
    helper.forward(inputs);
  });

  deepcache::PackedWeights weights;
  const auto split = deepcache::split_conditioning(weights.pack(deepcache::inference_graph(load_module(source))));
  const deepcache::Program conditioning(weights.runnable(split.conditioning), "conditioning");
  auto with_conditioning = inputs;
  for (const auto& value : conditioning.run(split.unchanging(inputs))) with_conditioning.push_back(value);
  std::optional<Bare> bare;
  r.cut_ms = milliseconds([&] {
    const auto [full, shallow] = deepcache::cut(split.step, o.steps.cache_branch_id);
    bare.emplace(Bare{{weights.runnable(full), "full"}, {weights.runnable(shallow), "cached"}, with_conditioning});
  });
  r.times = measure_steps(o, plain, helper, *bare, inputs);
  if (o.profile) {
    r.full_operators = bench::profile_operators([&] { plain.forward(inputs); }, 3);
    helper.set_params(
        {.cache_interval = std::numeric_limits<std::int64_t>::max(), .cache_branch_id = o.steps.cache_branch_id});
    helper.forward(inputs);
    r.cached_operators = bench::profile_operators([&] { helper.forward(inputs); }, 15);
  }
  return r;
}

double gflops(std::int64_t macs, double milliseconds) {
  return 2e-6 * static_cast<double>(macs) / milliseconds;
}

/// {name, value, unit}, in the order of the table. NaN: not known here.
using Rows = std::vector<std::tuple<std::string, double, std::string>>;

Rows rows(const Result& r) {
  const auto& t = r.times;
  const auto& [full, cached] = std::pair(r.profile.full_step, r.profile.cached_step);
  const auto share = [](auto part, auto whole) { return static_cast<double>(part) / static_cast<double>(whole); };
  const auto ratio = paired_median(t.cached, t.full, [](double a, double b) { return a / b; });
  const auto added = [](double a, double b) { return a - b; };
  const auto reached =
      share(full.total(), kMatrixMacs) * paired_median(t.matmul, t.full, [](double a, double b) { return a / b; });
  const auto whole = [&](double peak) { return peak < 0 ? NAN : 100 * peak / (r.weights + r.activations); };
  const auto bytes = [](double value) { return value < 0 ? NAN : value / 1e6; };
  const auto beside = [&](double with, double without) {
    return with < 0 ? NAN : 100 * (with - without - static_cast<double>(r.profile.feature_bytes)) / r.weights;
  };
  return {
      {"full step, plain", median(t.plain), "ms"},
      {"full step, helper", median(t.full), "ms"},
      {"cached step, helper", median(t.cached), "ms"},
      {"cached step, bare", median(t.bare), "ms"},
      {"cached / full: time", 100 * ratio, "%"},
      {"cached / full: macs of weights", 100 * share(cached.weights, full.weights), "%"},
      {"cached / full: macs with attention", 100 * share(cached.total(), full.total()), "%"},
      {"time / macs of weights", ratio / share(cached.weights, full.weights), "x"},
      {"time / macs with attention", ratio / share(cached.total(), full.total()), "x"},
      {"helper adds to a full step", 100 * paired_median(t.full, t.plain, added) / median(t.plain), "%"},
      {"helper adds to a cached step", 100 * paired_median(t.cached, t.bare, added) / median(t.bare), "%"},
      {"helper's bookkeeping", 1000 * median(t.bookkeeping), "us"},
      {"helper's bookkeeping / cached step", 100 * median(t.bookkeeping) / median(t.bare), "%"},
      {"matrix multiplication", gflops(kMatrixMacs, median(t.matmul)), "GFLOP/s"},
      {"full step", gflops(full.total(), median(t.full)), "GFLOP/s"},
      {"full step / matrix multiplication", 100 * reached, "%"},
      {"weights", bytes(r.weights), "MB"},
      {"activations", bytes(r.activations), "MB"},
      {"feature", bytes(static_cast<double>(r.profile.feature_bytes)), "MB"},
      {"resident: added by loading", bytes(r.load_bytes), "MB"},
      {"resident: plain", bytes(r.plain.settled), "MB"},
      {"resident: helper", bytes(r.helper.settled), "MB"},
      {"peak: plain", bytes(r.plain.peak), "MB"},
      {"peak: helper", bytes(r.helper.peak), "MB"},
      {"peak: plain / weights + activations", whole(r.plain.peak), "%"},
      {"peak: helper / weights + activations", whole(r.helper.peak), "%"},
      {"helper beside feature / weights", beside(r.helper.settled, r.plain.settled), "%"},
      {"same, of the peaks", beside(r.helper.peak, r.plain.peak), "%"},
      {"load", r.load_ms, "ms"},
      {"cut", r.cut_ms, "ms"},
  };
}

/// A step under the profiler, whose own time is in "between operators".
nlohmann::ordered_json report_operators(const char* title, const std::vector<bench::OperatorTime>& operators,
                                        const Result& r) {
  auto json = nlohmann::ordered_json::array();
  double whole = 0;
  for (const auto& entry : operators) whole += entry.milliseconds;
  std::printf("%-36s %10s %8s %10s %10s\n", title, "of time", "calls", "GFLOP/s", "of matmul");
  for (const auto& [name, calls, milliseconds, macs] : operators) {
    const auto speed = gflops(macs, milliseconds);
    const auto peak = gflops(kMatrixMacs, median(r.times.matmul));
    json.push_back({{"name", name},
                    {"calls", calls},
                    {"milliseconds", milliseconds},
                    {"share", milliseconds / whole},
                    {"gflops", speed},
                    {"of_matmul", speed / peak}});
    std::printf("%-36s %8.1f %% %8lld", name.c_str(), 100 * milliseconds / whole, static_cast<long long>(calls));
    macs > 0 ? std::printf(" %10.1f %8.0f %%\n", speed, 100 * speed / peak) : std::printf("\n");
  }
  return json;
}

void report(const Options& o, const Result& r) {
  nlohmann::ordered_json json{{"model", (o.package.empty() ? o.unet : o.package).string()},
                              {"branch", r.profile.name},
                              {"latent_size", text_of(o.latent_size)},
                              {"text", text_of(o.text)},
                              {"batch", o.batch},
                              {"threads", o.steps.threads},
                              {"rounds", o.rounds}};
  std::printf("%s (branch %lld), latents %s, text %s, batch %lld, %d threads, %d rounds\n", r.profile.name.c_str(),
              static_cast<long long>(o.steps.cache_branch_id), text_of(o.latent_size).c_str(), text_of(o.text).c_str(),
              static_cast<long long>(o.batch), o.steps.threads, o.rounds);
  for (const auto& [name, value, unit] : rows(r)) {
    json["rows"].push_back({{"name", name}, {"value", value}, {"unit", unit}});
    if (std::isnan(value))
      std::printf("%-36s   not known on this system\n", name.c_str());
    else
      std::printf("%-36s %10.*f %s\n", name.c_str(), value < 100 ? 3 : 1, value, unit.c_str());
  }
  json["milliseconds"] = {{"plain", r.times.plain},
                          {"full", r.times.full},
                          {"cached", r.times.cached},
                          {"bare", r.times.bare},
                          {"matrix multiplication", r.times.matmul}};
  if (o.profile) {
    json["operators"] = report_operators("a full step's operators", r.full_operators, r);
    json["operators of a cached step"] = report_operators("a cached step's operators", r.cached_operators, r);
  }
  if (!o.json.empty()) deepcache::save_text(json.dump(2) + "\n", o.json);
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app("What a cached step of a UNet costs beside a full one, and what the helper adds", "unet_bench");
  Options options;
  add_flags(app, options);
  return deepcache::cli::run(app, argc, argv, [&] {
    at::set_num_threads(options.steps.threads);
    if (options.serve) {
      const auto source = source_of(options);
      const auto dtype = dtype_of(load_module(source));
      bench::serve_steps(load_unet(source), make_inputs(options, dtype), options.steps);
    } else {
      report(options, measure(options));
    }
  });
}
