#include "deepcache/run_report.hpp"

#include <cmath>
#include <nlohmann/json.hpp>

#include "error.hpp"
#include "io/files.hpp"

namespace deepcache {
namespace {

using Json = nlohmann::ordered_json;

Json value_or_null(const std::optional<double>& value) {
  return value ? Json(*value) : Json(nullptr);
}

Json request_of(const RunReport& report) {
  const auto& params = report.params;
  Json request{{"model", report.model},
               {"prompt", report.prompt},
               {"negative_prompt", params.negative_prompt.value_or("")},
               {"prompt_weighting", params.prompt_weighting},
               {"max_prompt_chunks", params.max_prompt_chunks},
               {"scheduler", report.scheduler},
               {"steps", params.num_inference_steps},
               {"guidance_scale", value_or_null(params.guidance_scale)},
               {"seeds", params.seeds},
               {"batch_size", params.num_images_per_prompt},
               {"width", params.width},
               {"height", params.height},
               {"init_latents", params.latents.defined()}};
  if (params.image.defined()) {
    request["strength"] = value_or_null(params.strength);
    request["mask"] = params.mask.defined();
  }
  for (const auto& control : params.control_images)
    request["control_images"].push_back({{"conditioning_scale", control.conditioning_scale},
                                         {"guidance_start", control.guidance_start},
                                         {"guidance_end", control.guidance_end}});
  return request;
}

/// The interval that ran: a caller without a cache says 1.
Json cache_of(const RunReport& report) {
  return {{"interval", report.cache.cache_interval},
          {"branch_id", report.stats.cache_branch_id},
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
  for (std::size_t i = 0; i < stats.steps.size(); ++i)
    steps.push_back({{"index", i},
                     {"timestep", timesteps.at(i)},
                     {"mode", stats.steps[i].full ? "full" : "cached"},
                     {"milliseconds", stats.steps[i].milliseconds}});
  Json json{{"request", request_of(*this)},
            {"steps", std::move(steps)},
            {"cache", cache_of(*this)},
            {"totals",
             {{"milliseconds", milliseconds}, {"full_steps", stats.full_steps}, {"cached_steps", stats.cached_steps}}}};
  if (compare)
    json["compare"] = {{"milliseconds_uncached", compare->milliseconds_uncached},
                       {"speedup", compare->speedup},
                       {"psnr_db", finite_or_null(compare->psnr_db)},
                       {"ssim", finite_or_null(compare->ssim)}};
  return dump(json, 2) + "\n";
}

PngText RunReport::png_text(std::int64_t index) const {
  const auto negative = params.negative_prompt ? "\nNegative prompt: " + *params.negative_prompt : "";
  auto parameters =
      fmt::format("{}{}\nSteps: {}, Sampler: {}, ", prompt, negative, params.num_inference_steps, scheduler);
  if (params.guidance_scale) parameters += fmt::format("CFG scale: {}, ", *params.guidance_scale);
  if (!params.latents.defined())  // else it isn't from the seed that the picture comes
    parameters +=
        fmt::format("Seed: {}, ", params.seeds.at(params.seeds.size() == 1 ? 0 : static_cast<std::size_t>(index)));
  parameters += fmt::format("Size: {}x{}, Model: {}", params.width, params.height, model);
  if (params.num_images_per_prompt > 1)
    parameters += fmt::format(", Batch size: {}, Batch pos: {}", params.num_images_per_prompt, index);
  if (stats.cached_steps > 0)
    parameters += fmt::format(", DeepCache: \"{}\", DeepCache branch: {}", stats.policy, stats.cache_branch_id);
  const Json json{{"request", request_of(*this)}, {"cache", cache_of(*this)}, {"image", index}};
  return {{"parameters", parameters}, {"deepcache", dump(json, -1)}};
}

std::string RunReport::summary() const {
  auto line = fmt::format("{:<28} {} full + {} cached steps, {:.0f} ms", prompt, stats.full_steps, stats.cached_steps,
                          milliseconds);
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
