#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "deepcache/helper.hpp"
#include "deepcache/image.hpp"

/// What a run was asked and did, for people, for programs, and in the pictures that it made.
///
///   deepcache::RunReport report{.request = request_json, .cache = params, .stats = helper.stats()};
///   deepcache::save_reports({report}, "run.json");
///   deepcache::save_png(images[0], "0.png", report.png_text(0));
///
/// Not for runs that are compared in many ways: compare.hpp.
namespace deepcache {

/// A run set beside the same run without caching.
struct RunComparison {
  double milliseconds_uncached = 0;
  double speedup = 0;  ///< uncached time over cached time
  double psnr_db = 0;  ///< of the images; infinite if they are equal, null in JSON
  double ssim = 0;     ///< NaN if it wasn't computed, null in JSON
};

/// What was asked of a pipeline, and what it did: as JSON for programs, and as texts to keep in the PNG file.
struct RunReport {
  /// What was asked, a JSON object: "model", "scheduler", "steps", "seeds", "width", "height", and what the model's
  /// family is asked besides, such as "prompt" and "guidance_scale", as the pipeline's `resolve` completes it.
  std::string request = "{}";
  CacheParams cache = {};
  CacheStats stats = {};               ///< of the helper, right after the run
  std::vector<double> timesteps = {};  ///< of each step; none: the report's steps are without
  double milliseconds = 0;             ///< the whole call: text encoder, steps, decoding
  std::size_t num_subjects = 1;        ///< prompts that ran together, whose times, steps and bytes these are
  std::optional<RunComparison> compare = std::nullopt;

  /// {"request", "steps": [{"index", "timestep", "mode": "full"|"cached", "milliseconds"}],
  ///  "cache": {"interval", "branch_id", "forecast_order", "policy", "bytes"}, "totals": {"milliseconds", "full_steps",
  ///  "cached_steps", and, of prompts that ran together, "prompts"}, and, if there is one, "compare":
  ///  {"milliseconds_uncached", "speedup", "psnr_db", "ssim"}}
  std::string json() const;

  /// A line for people: what was painted, steps, time, and what a comparison gave.
  std::string summary() const;

  /// For picture number `index` of the batch: "parameters" in the convention of web UIs, and "deepcache" in JSON.
  PngText png_text(std::int64_t index) const;
};

/// Writes a text file that is whole or absent. @throws std::runtime_error if it can't be written.
void save_text(const std::string& text, const std::filesystem::path& file);

/// Writes a report's JSON, or a list of several reports'. The file is whole or absent.
/// @throws std::runtime_error if it can't be written.
void save_reports(const std::vector<RunReport>& reports, const std::filesystem::path& file);

}  // namespace deepcache
