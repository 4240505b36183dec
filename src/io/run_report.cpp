#include "deepcache/run_report.hpp"

#include <array>
#include <cmath>
#include <nlohmann/json.hpp>
#include <utility>

#include "error.hpp"
#include "io/files.hpp"

namespace deepcache {
namespace {

using Json = nlohmann::ordered_json;

/// How web UIs call what a request holds.
constexpr std::array kLabels{std::pair{"steps", "Steps"}, std::pair{"scheduler", "Sampler"},
                             std::pair{"guidance_scale", "CFG scale"}, std::pair{"strength", "Denoising strength"}};

std::string text_of(const Json& value) {
  return value.is_string() ? value.get<std::string>() : value.dump();
}

/// What was painted after: a prompt, an image's name, or a class; empty if nothing.
std::string subject_of(const Json& request) {
  for (const char* key : {"prompt", "image"})
    if (request.contains(key)) return text_of(request[key]);
  return request.contains("class_label") ? "class " + text_of(request["class_label"]) : "";
}

/// The interval that ran: a caller without a cache says 1.
Json cache_of(const RunReport& report) {
  return {{"interval", report.cache.cache_interval},
          {"branch_id", report.stats.cache_branch_id},
          {"forecast_order", report.cache.forecast_order},
          {"policy", report.stats.policy},
          {"bytes", report.stats.cache_bytes}};
}

Json finite_or_null(double value) {
  return std::isfinite(value) ? Json(value) : Json(nullptr);
}

std::string dump(const Json& json, int indent) {
  return json.dump(indent, ' ', false, Json::error_handler_t::replace);  // a prompt may hold anything
}

}  // namespace

std::string RunReport::json() const {
  auto steps = Json::array();
  for (std::size_t i = 0; i < stats.steps.size(); ++i) {
    Json step{{"index", i}};
    if (i < timesteps.size()) step["timestep"] = timesteps[i];
    step["mode"] = stats.steps[i].full ? "full" : "cached";
    step["milliseconds"] = stats.steps[i].milliseconds;
    steps.push_back(std::move(step));
  }
  Json json{{"request", Json::parse(request)},
            {"steps", std::move(steps)},
            {"cache", cache_of(*this)},
            {"totals",
             {{"milliseconds", milliseconds}, {"full_steps", stats.full_steps}, {"cached_steps", stats.cached_steps}}}};
  if (num_subjects > 1) json["totals"]["prompts"] = num_subjects;
  if (compare)
    json["compare"] = {{"milliseconds_uncached", compare->milliseconds_uncached},
                       {"speedup", compare->speedup},
                       {"psnr_db", finite_or_null(compare->psnr_db)},
                       {"ssim", finite_or_null(compare->ssim)}};
  return dump(json, 2) + "\n";
}

PngText RunReport::png_text(std::int64_t index) const {
  const auto asked = Json::parse(request);
  std::vector<std::string> parts;
  for (const auto& [key, label] : kLabels)
    if (asked.contains(key)) parts.push_back(fmt::format("{}: {}", label, text_of(asked[key])));
  if (asked.contains("seeds") && !asked.value("init_latents", false)) {  // else it isn't from the seed that it comes
    const auto& seeds = asked["seeds"];
    parts.push_back("Seed: " + text_of(seeds.at(seeds.size() == 1 ? 0 : static_cast<std::size_t>(index))));
  }
  if (asked.contains("width"))
    parts.push_back(fmt::format("Size: {}x{}", text_of(asked["width"]), text_of(asked["height"])));
  parts.push_back("Model: " + asked.value("model", ""));
  if (const auto batch = asked.value("batch_size", 1); batch > 1)
    parts.push_back(fmt::format("Batch size: {}, Batch pos: {}", batch, index));
  if (stats.cached_steps > 0)
    parts.push_back(fmt::format("DeepCache: \"{}\", DeepCache branch: {}", stats.policy, stats.cache_branch_id));
  auto parameters = subject_of(asked);
  if (const auto negative = asked.value("negative_prompt", ""); !negative.empty())
    parameters += "\nNegative prompt: " + negative;
  parameters += fmt::format("\n{}", fmt::join(parts, ", "));
  const Json json{{"request", asked}, {"cache", cache_of(*this)}, {"image", index}};
  return {{"parameters", parameters}, {"deepcache", dump(json, -1)}};
}

std::string RunReport::summary() const {
  auto line = fmt::format("{:<28} {} full + {} cached steps, {:.0f} ms", subject_of(Json::parse(request)),
                          stats.full_steps, stats.cached_steps, milliseconds);
  if (num_subjects > 1) line += fmt::format(" for {} prompts", num_subjects);
  if (compare)
    line += fmt::format("; uncached {:.0f} ms: {:.2f}x faster, PSNR {:.1f} dB, SSIM {:.3f}",
                        compare->milliseconds_uncached, compare->speedup, compare->psnr_db, compare->ssim);
  return line;
}

void save_text(const std::string& text, const std::filesystem::path& file) {
  write_file(file, text);
}

void save_reports(const std::vector<RunReport>& reports, const std::filesystem::path& file) {
  std::vector<std::string> texts;
  for (const auto& report : reports) texts.push_back(report.json());
  save_text(texts.size() == 1 ? texts[0] : fmt::format("[{}]\n", fmt::join(texts, ",\n")), file);
}

}  // namespace deepcache
