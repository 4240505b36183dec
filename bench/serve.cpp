#include "serve.hpp"

#include <ATen/Parallel.h>
#include <deepcache/helper.hpp>

#include <chrono>
#include <cstdio>
#include <exception>
#include <iostream>
#include <limits>
#include <list>
#include <stdexcept>
#include <thread>

namespace deepcache::bench {
namespace {

/// A UNet with its helper, for one thread.
struct Runner {
  Runner(UNet network, std::int64_t branch, std::int64_t interval) : unet(std::move(network)), helper(unet) {
    helper.set_params({.cache_interval = interval, .cache_branch_id = branch});
    helper.enable();
  }
  void run(const std::vector<c10::IValue>& inputs, std::int64_t steps) {
    helper.reset();
    for (std::int64_t i = 0; i < steps; ++i) helper.forward(inputs);
  }

  UNet unet;
  Helper helper;
};

void run_all(std::list<Runner>& runners, const std::vector<c10::IValue>& inputs, const StepOptions& options) {
  // GNU's OpenMP lets threads sleep between operators where several threads have some of their own.
  if (runners.size() == 1) return runners.front().run(inputs, options.steps);
  std::list<std::thread> threads;
  std::list<std::exception_ptr> errors;
  for (auto& runner : runners)
    threads.emplace_back([&, &error = errors.emplace_back()] {
      try {
        at::set_num_threads(options.threads / options.helpers);
        runner.run(inputs, options.steps);
      } catch (...) {
        error = std::current_exception();
      }
    });
  for (auto& thread : threads) thread.join();
  for (const auto& error : errors)
    if (error) std::rethrow_exception(error);
}

}  // namespace

void serve(const std::function<void(const std::string& line)>& work) {
  std::puts("ready");
  std::fflush(stdout);
  for (std::string line; std::getline(std::cin, line);) {
    const auto start = std::chrono::steady_clock::now();
    work(line);
    const std::chrono::duration<double, std::milli> elapsed = std::chrono::steady_clock::now() - start;
    std::printf("%f\n", elapsed.count());
    std::fflush(stdout);
  }
}

void serve_steps(const UNet& unet, const std::vector<c10::IValue>& inputs, const StepOptions& options) {
  if (options.threads % options.helpers != 0)
    throw std::invalid_argument("the number of threads must be a multiple of that of helpers, got " +
                                std::to_string(options.threads) + " and " + std::to_string(options.helpers));
  // Neither begins a run again: what is timed are a run's later steps.
  Runner full(unet, options.cache_branch_id, 1);
  Runner cached(unet.share_weights(), options.cache_branch_id, std::numeric_limits<std::int64_t>::max());
  full.run(inputs, 1);
  cached.run(inputs, 1);
  std::list<Runner> runners;  // made when first asked for
  serve([&](const std::string& kind) {
    if (kind == "full") {
      full.helper.forward(inputs);
    } else if (kind == "cached") {
      cached.helper.forward(inputs);
    } else if (kind == "run") {
      while (runners.size() < static_cast<std::size_t>(options.helpers))
        runners.emplace_back(unet.share_weights(), options.cache_branch_id, options.cache_interval);
      run_all(runners, inputs, options);
    } else {
      throw std::invalid_argument("a line must be full, cached or run, got \"" + kind + "\"");
    }
  });
}

}  // namespace deepcache::bench
