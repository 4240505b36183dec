#include "pipelines/jobs.hpp"

#include <algorithm>
#include <chrono>
#include <optional>

#include "deepcache/image.hpp"
#include "deepcache/tensor_io.hpp"
#include "deepcache/video.hpp"
#include "error.hpp"
#include "io/files.hpp"
#include "pipelines/likeness.hpp"

namespace deepcache {
namespace {

namespace fs = std::filesystem;

constexpr auto kReplaceBroken = nlohmann::ordered_json::error_handler_t::replace;  // a prompt may hold anything

struct JobRun {
  Painted painted;
  RunReport report;  ///< but for the request
};

void append(CacheStats& stats, const CacheStats& more) {
  stats.steps.insert(stats.steps.end(), more.steps.begin(), more.steps.end());
  stats.full_steps += more.full_steps;
  stats.cached_steps += more.cached_steps;
  stats.cache_bytes = std::max(stats.cache_bytes, more.cache_bytes);
  stats.macs_saved += more.macs_saved;
}

JobRun run(const Job& job, std::vector<Helper>& helpers, CacheParams cache, bool cached) {
  if (!cached)
    cache = {.cache_interval = 1, .cache_branch_id = cache.cache_branch_id, .cache_module = cache.cache_module};
  for (auto& helper : helpers) helper.set_params(cache);
  JobRun run{.painted = {}, .report = {.cache = cache, .num_subjects = job.subjects.size()}};
  const auto start = std::chrono::steady_clock::now();
  run.painted = job.run([&](const PipelineStep& step) {
    run.report.timesteps.push_back(step.timestep);
    return true;
  });
  const std::chrono::duration<double, std::milli> elapsed = std::chrono::steady_clock::now() - start;
  run.report.milliseconds = elapsed.count();
  run.report.stats = helpers.at(0).stats();
  for (std::size_t i = 1; i < helpers.size(); ++i) append(run.report.stats, helpers[i].stats());
  return run;
}

/// The run's report on one of its subjects.
RunReport report_on(const Subject& subject, const JobRun& run) {
  auto report = run.report;
  report.request = subject.request.dump(-1, ' ', false, kReplaceBroken);
  return report;
}

/// Of a subject's pictures.
RunComparison compare(const RunReport& cached, const torch::Tensor& cached_pictures, const RunReport& full,
                      const torch::Tensor& full_pictures) {
  return {.milliseconds_uncached = full.milliseconds,
          .speedup = full.milliseconds / cached.milliseconds,
          .psnr_db = psnr(cached_pictures, full_pictures),
          .ssim = ssim_or_nan(cached_pictures, full_pictures)};
}

/// heart.png, or heart-2.png for one of several pictures; `suffix` tells uncached ones apart.
fs::path numbered(fs::path file, std::size_t index, std::size_t count, const std::string& suffix = "") {
  const auto number = count > 1 ? fmt::format("-{}", index + 1) : "";
  if (!file.has_filename()) {  // a folder of frames, "heart/"
    file = file.parent_path();
    file += number + suffix;
    return file / "";
  }
  return file.parent_path() / (file.stem().string() + number + suffix + file.extension().string());
}

void check_outputs(const JobOptions& options, std::size_t count) {
  const auto& outputs = options.outputs;
  check_argument(options.compare || outputs.contact_sheet.empty(), "a contact sheet needs a comparison");
  check_argument(!outputs.image.empty(), "the pictures' file has no name");
  if (options.video_shape.empty()) check_png(outputs.image);
  check_png(outputs.contact_sheet);
  std::vector<fs::path> files;
  for (const auto& file : {outputs.report, outputs.contact_sheet, outputs.latents})
    if (!file.empty()) files.push_back(file);
  for (std::size_t i = 0; i < count; ++i) {
    files.push_back(numbered(outputs.image, i, count));
    if (options.compare) files.push_back(numbered(outputs.image, i, count, "-uncached"));
  }
  check_distinct(files);
  for (const auto& file : files) {
    const bool is_video = file != outputs.report && file != outputs.contact_sheet && file != outputs.latents &&
                          !options.video_shape.empty();
    if (is_video)
      check_video(options.video_shape, file, options.fps);
    else
      check_writable(file);
  }
}

/// Greys become colours.
torch::Tensor in_colours(const torch::Tensor& picture) {
  auto shape = picture.sizes().vec();
  shape.at(shape.size() - 3) = 3;
  return picture.expand(shape);
}

/// Of a video, the frame in the middle.
torch::Tensor still(const torch::Tensor& picture) {
  return picture.dim() == 4 ? picture[picture.size(0) / 2] : picture;
}

void save(const torch::Tensor& picture, const fs::path& file, double fps, const PngText& text) {
  if (picture.dim() == 4)
    save_video(picture, file, fps, {.metadata = text});
  else
    save_png(picture, file, text);
}

/// Which of a batch's pictures are a subject's, and which of all that are written they are.
struct Place {
  std::int64_t in_batch;
  std::size_t first, count;
};

torch::Tensor pictures_of(const JobRun& run, const Place& place, const JobOptions& options) {
  const auto number = static_cast<std::int64_t>(options.pictures_a_subject);
  return run.painted.pictures.slice(0, place.in_batch, place.in_batch + number);
}

void save_pictures(const torch::Tensor& pictures, const RunReport& report, const Place& place,
                   const JobOptions& options, const std::string& suffix = "") {
  for (std::int64_t i = 0; i < pictures.size(0); ++i) {
    const auto index = place.first + static_cast<std::size_t>(i);
    save(in_colours(pictures[i]), numbered(options.outputs.image, index, place.count, suffix), options.fps,
         report.png_text(i));
  }
}

/// Writes a subject's pictures, and adds their rows to the contact sheet's, if there is a full run to compare with.
RunReport finish(const Subject& subject, const JobRun& cached, const std::optional<JobRun>& full, const Place& place,
                 const JobOptions& options, std::vector<ContactRow>& rows) {
  auto report = report_on(subject, cached);
  const auto pictures = pictures_of(cached, place, options);
  save_pictures(pictures, report, place, options);
  if (!full) return report;
  const auto full_report = report_on(subject, *full);
  const auto full_pictures = pictures_of(*full, place, options);
  save_pictures(full_pictures, full_report, place, options, "-uncached");
  report.compare = compare(report, pictures, full_report, full_pictures);
  for (std::int64_t i = 0; i < pictures.size(0); ++i)
    rows.push_back({subject.caption, {still(in_colours(full_pictures[i])), still(in_colours(pictures[i]))}});
  return report;
}

void save_contact_sheet(const JobOptions& options, const std::vector<ContactRow>& rows) {
  constexpr std::int64_t kSmallest = 128, kRowsAcross = 3;
  const auto scale = std::max<std::int64_t>(1, kSmallest / rows[0].images[0].size(2));
  const bool is_uniform = !options.cache.policy && options.cache.skip_mode == SkipMode::kUniform;
  const auto cached = is_uniform ? fmt::format("every {}", options.cache.cache_interval) : "cached";
  save_png(contact_sheet({"full", cached}, rows, scale, kRowsAcross), options.outputs.contact_sheet);
}

}  // namespace

std::vector<RunReport> run_jobs(const std::vector<Job>& jobs, std::vector<Helper>& helpers, const JobOptions& options) {
  const auto& outputs = options.outputs;
  std::size_t count = 0;
  for (const auto& job : jobs) count += job.subjects.size() * options.pictures_a_subject;
  for (auto& helper : helpers) {
    helper.set_params(options.cache);
    helper.enable();
  }
  check_outputs(options, count);
  if (options.compare) jobs.at(0).warm_up();

  std::vector<RunReport> reports;
  std::vector<ContactRow> rows;
  std::vector<torch::Tensor> latents;
  for (const auto& job : jobs) {
    std::optional<JobRun> full;
    if (options.compare) full = run(job, helpers, options.cache, false);
    if (full && full->painted.cancelled) break;
    const auto cached = run(job, helpers, options.cache, true);
    if (cached.painted.cancelled) break;
    latents.push_back(cached.painted.latents);
    Place place{.in_batch = 0, .first = reports.size() * options.pictures_a_subject, .count = count};
    for (const auto& subject : job.subjects) {
      reports.push_back(finish(subject, cached, full, place, options, rows));
      place.in_batch += static_cast<std::int64_t>(options.pictures_a_subject);
      place.first += options.pictures_a_subject;
      if (options.on_report) options.on_report(reports.back());
    }
  }
  if (reports.empty()) return reports;
  if (!outputs.latents.empty()) save_tensor(torch::cat(latents), outputs.latents);
  if (!outputs.report.empty()) save_reports(reports, outputs.report);
  if (!outputs.contact_sheet.empty()) save_contact_sheet(options, rows);
  return reports;
}

}  // namespace deepcache
