#pragma once

#include <torch/types.h>

#include <functional>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "deepcache/generate.hpp"
#include "deepcache/helper.hpp"
#include "deepcache/pipeline.hpp"
#include "deepcache/run_report.hpp"

/// What `generate` does of every family's runs: with and without caching, to files and reports.
namespace deepcache {

/// What a run makes.
struct Painted {
  torch::Tensor pictures;  ///< [B, C, H, W], of videos [B, F, C, H, W], C 1 or 3, float32 in [0, 1]; undefined if
                           ///< cancelled
  torch::Tensor latents;
  bool cancelled = false;
};

/// What is asked of the pipeline.
struct Subject {
  nlohmann::ordered_json request;  ///< for the report (`RunReport::request`)
  std::string caption;             ///< of its pictures, on a contact sheet
};

/// A run, in which all but the caching is decided.
struct Job {
  std::vector<Subject> subjects;  ///< one, or several as one batch, whose pictures are in this order
  std::function<Painted(const StepCallback&)> run;
  std::function<void()> warm_up;  ///< calls each network as `run` will, for LibTorch's first calls are slower
};

struct JobOptions {
  CacheParams cache = {};
  bool compare = false;
  GenerateOutputs outputs = {};
  std::size_t pictures_a_subject = 1;
  std::vector<std::int64_t> video_shape = {};  ///< [F, 3, H, W], if pictures are videos
  double fps = 0;                              ///< of them
  std::function<void(const RunReport&)> on_report = {};
};

/// Runs the jobs, and writes the files. The helpers are those of the pipelines that a job calls, in the order in which
/// it does; they become enabled.
/// @returns a report for each subject of the jobs that weren't cancelled
/// @throws std::invalid_argument as `Helper::set_params`. @throws std::runtime_error if a file can't be written, most
/// of
///         which is found before the first job begins.
std::vector<RunReport> run_jobs(const std::vector<Job>& jobs, std::vector<Helper>& helpers, const JobOptions& options);

}  // namespace deepcache
