#include "deepcache/run_report.hpp"

#include <cmath>
#include <nlohmann/json.hpp>

#include "error.hpp"
#include "io/files.hpp"

namespace deepcache {
namespace {

using Json = nlohmann::ordered_json;

Json request_of(const RunReport& report) {
  const auto& params = report.params;
  return {{"model", report.model},
          {"prompt", report.prompt},
          {"negative_prompt", params.negative_prompt},
          {"scheduler", report.scheduler},
          {"steps", params.num_inference_steps},
          {"guidance_scale", params.guidance_scale},
          {"seeds", params.seeds},
          {"batch_size", params.num_images_per_prompt},
          {"width", params.width},
          {"height", params.height}};
}

/// The interval that ran: a caller without a cache says 1.
Json cache_of(const RunReport& report) {
  return {{"interval", report.cache.cache_interval},
          {"branch_id", report.cache.cache_branch_id},
          {"bytes", report.stats.cache_bytes}};
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
                       {"psnr_db", std::isfinite(compare->psnr_db) ? Json(compare->psnr_db) : Json(nullptr)},
                       {"ssim", compare->ssim}};
  return dump(json, 2) + "\n";
}

PngText RunReport::png_text(std::int64_t index) const {
  const auto negative = params.negative_prompt.empty() ? "" : "\nNegative prompt: " + params.negative_prompt;
  auto parameters = fmt::format("{}{}\nSteps: {}, Sampler: {}, CFG scale: {}, Seed: {}, Size: {}x{}, Model: {}", prompt,
                                negative, params.num_inference_steps, scheduler, params.guidance_scale,
                                params.seeds.at(params.seeds.size() == 1 ? 0 : static_cast<std::size_t>(index)),
                                params.width, params.height, model);
  if (params.num_images_per_prompt > 1)
    parameters += fmt::format(", Batch size: {}, Batch pos: {}", params.num_images_per_prompt, index);
  if (cache.cache_interval > 1)
    parameters +=
        fmt::format(", DeepCache interval: {}, DeepCache branch: {}", cache.cache_interval, cache.cache_branch_id);
  const Json json{{"request", request_of(*this)}, {"cache", cache_of(*this)}, {"image", index}};
  return {{"parameters", parameters}, {"deepcache", dump(json, -1)}};
}

void save_text(const std::string& text, const std::filesystem::path& file) {
  write_file(file, text);
}

}  // namespace deepcache
