#include <openssl/evp.h>
#include <torch/types.h>

#include <algorithm>
#include <array>
#include <iterator>
#include <map>
#include <nlohmann/json.hpp>
#include <utility>

#include "deepcache/compare.hpp"
#include "deepcache/image.hpp"
#include "error.hpp"
#include "io/line_chart.hpp"
#include "io/png.hpp"

namespace deepcache {
namespace {

using Json = nlohmann::ordered_json;

constexpr std::array kColors{"#0072b2", "#d55e00", "#009e73", "#cc79a7", "#767676", "#56b4e9", "#e69f00"};
constexpr std::array kDashes{"", "7 3", "2 3", "9 3 2 3", "4 4", "1 2"};

constexpr const char* kPage = R"(<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>{title}</title>
<style>
body {{ font: 15px/1.5 system-ui, sans-serif; margin: 2em auto; max-width: 1100px; padding: 0 1em; color: #222; background: #fff }}
table {{ border-collapse: collapse }}
th, td {{ padding: 2px 12px; text-align: right; border-bottom: 1px solid #ddd }}
th:first-child, td:first-child {{ text-align: left }}
svg {{ max-width: 760px; font-size: 12px }}
.grid {{ stroke: #e4e4e4 }}
.line {{ fill: none; stroke-width: 2 }}
.wide {{ overflow-x: auto }}
img {{ min-width: 128px; image-rendering: pixelated }}
</style>
</head>
<body>
<h1>{title}</h1>
<p>{asked}</p>
<div class="wide"><table>
{table}</table></div>
<h2>Quality against speedup</h2>
{quality}
<h2>Error of the latents after each step</h2>
{errors}
<h2>Pictures</h2>
<div class="wide"><table>
{pictures}</table></div>
</body>
</html>
)";

/// What the columns of a table show of a score.
struct Column {
  std::string title;
  std::string (*text)(const WayScore& score);
};

const std::vector<Column>& columns() {
  static const std::vector<Column> columns{
      {"time, s", [](const WayScore& s) { return fmt::format("{:.2f}", s.milliseconds / 1000); }},
      {"speedup", [](const WayScore& s) { return fmt::format("{:.2f}", s.speedup); }},
      {"by MACs", [](const WayScore& s) { return fmt::format("{:.2f}", s.macs_speedup); }},
      {"PSNR, dB", [](const WayScore& s) { return fmt::format("{:.1f}", s.psnr_db); }},
      {"SSIM", [](const WayScore& s) { return fmt::format("{:.4f}", s.ssim); }},
      {"latent error", [](const WayScore& s) { return fmt::format("{:.2e}", s.latent_error); }},
      {"full steps", [](const WayScore& s) { return fmt::format("{:.4g}", s.full_steps); }},
      {"cached", [](const WayScore& s) { return fmt::format("{:.4g}", s.cached_steps); }},
      {"cache, KB", [](const WayScore& s) { return fmt::format("{:.0f}", static_cast<double>(s.cache_bytes) / 1000); }},
  };
  return columns;
}

/// NaN becomes null when it is written.
Json json_of(const WayScore& score) {
  return {{"milliseconds", score.milliseconds},
          {"speedup", score.speedup},
          {"macs_speedup", score.macs_speedup},
          {"psnr_db", score.psnr_db},
          {"ssim", score.ssim},
          {"latent_error", score.latent_error},
          {"full_steps", score.full_steps},
          {"cached_steps", score.cached_steps},
          {"cache_bytes", score.cache_bytes}};
}

Json json_of(const WayResult& result, const Json& request) {
  const auto& way = result.way;
  Json json{{"name", way.name},
            {"kind", way.kind},
            {"steps", way.num_inference_steps != 0 ? Json(way.num_inference_steps) : request.at("steps")},
            {"cache",
             {{"policy", result.policy},
              {"branch_id", result.cache_branch_id},
              {"forecast_order", way.cache.forecast_order}}}};
  json.update(json_of(result.score));
  json["step_errors"] = result.step_errors;
  json["prompts"] = Json::array();
  for (const auto& score : result.prompts) json["prompts"].push_back(json_of(score));
  return json;
}

std::string base64(const std::string& bytes) {
  std::string text(4 * ((bytes.size() + 2) / 3) + 1, '\0');  // and a zero
  const auto length =
      EVP_EncodeBlock(reinterpret_cast<unsigned char*>(text.data()),
                      reinterpret_cast<const unsigned char*>(bytes.data()), static_cast<int>(bytes.size()));
  text.resize(static_cast<std::size_t>(length));
  return text;
}

/// Ways of each kind but the full one, in their order.
std::vector<std::pair<std::string, std::vector<const WayResult*>>> by_kind(const std::vector<WayResult>& ways) {
  std::vector<std::pair<std::string, std::vector<const WayResult*>>> kinds;
  for (const auto& result : ways) {
    if (&result == &ways.front()) continue;
    auto found = std::ranges::find(kinds, result.way.kind, [](const auto& kind) { return kind.first; });
    if (found == kinds.end()) found = kinds.insert(found, {result.way.kind, {}});
    found->second.push_back(&result);
  }
  return kinds;
}

constexpr std::int64_t kLargestShown = 256;  // pixels

/// Large pictures in small.
torch::Tensor shown(const torch::Tensor& picture) {
  const auto height = picture.size(1), width = picture.size(2), side = std::max(height, width);
  if (side <= kLargestShown) return picture;
  return resize_image(picture, std::max<std::int64_t>(1, height * kLargestShown / side),
                      std::max<std::int64_t>(1, width * kLargestShown / side));
}

std::string draw_table(const std::vector<WayResult>& ways) {
  std::string html = "<tr><th>";
  const auto out = std::back_inserter(html);
  for (const auto& column : columns()) fmt::format_to(out, "<th>{}", column.title);
  for (const auto& result : ways) {
    fmt::format_to(out, "\n<tr><td>{}", escape_xml(result.way.name));
    for (const auto& column : columns()) fmt::format_to(out, "<td>{}", column.text(result.score));
  }
  return html + "\n";
}

/// A row for each way.
std::string draw_pictures(const Comparison& comparison) {
  std::string html = "<tr><th>";
  const auto out = std::back_inserter(html);
  for (std::size_t i = 0; i < comparison.ways[0].pictures.size(); ++i)
    fmt::format_to(out, "<th>{}", escape_xml(comparison.prompts[i]));
  for (const auto& result : comparison.ways) {
    fmt::format_to(out, "\n<tr><td>{}", escape_xml(result.way.name));
    for (std::size_t i = 0; i < result.pictures.size(); ++i)
      fmt::format_to(out, "<td><img alt='' title='{:.1f} dB' src='data:image/png;base64,{}'>",
                     result.prompts[i].psnr_db,
                     base64(encode_png(shown(result.pictures[i]), {}, "a picture of the page")));
  }
  return html + "\n";
}

std::string draw_quality(const std::vector<WayResult>& ways) {
  LineChart chart{.x_label = "speedup of the whole run", .y_label = "PSNR, dB", .markers = true, .lines = {}};
  for (const auto& [kind, results] : by_kind(ways)) {
    ChartLine line{.name = kind, .color = kColors[chart.lines.size() % kColors.size()], .points = {}};
    for (const auto* result : results) line.points.emplace_back(result->score.speedup, result->score.psnr_db);
    std::ranges::sort(line.points);
    chart.lines.push_back(std::move(line));
  }
  return draw_svg(chart);
}

std::string draw_errors(const std::vector<WayResult>& ways) {
  LineChart chart{
      .x_label = "call of the UNet", .y_label = "|latents - uncached| / |uncached|", .log_y = true, .lines = {}};
  std::size_t color = 0;
  for (const auto& [kind, results] : by_kind(ways)) {
    for (std::size_t k = 0; k < results.size(); ++k) {
      if (results[k]->step_errors.empty()) continue;
      ChartLine line{.name = results[k]->way.name,
                     .color = kColors[color % kColors.size()],
                     .dashes = kDashes[k % kDashes.size()],
                     .points = {}};
      for (std::size_t i = 0; i < results[k]->step_errors.size(); ++i)
        line.points.emplace_back(i + 1, results[k]->step_errors[i]);
      chart.lines.push_back(std::move(line));
    }
    ++color;
  }
  return draw_svg(chart);
}

}  // namespace

std::string Comparison::table() const {
  std::size_t width = 0;
  for (const auto& result : ways) width = std::max(width, result.way.name.size());
  auto text = std::string(width, ' ');
  const auto out = std::back_inserter(text);
  for (const auto& column : columns()) fmt::format_to(out, "  {}", column.title);
  for (const auto& result : ways) {
    fmt::format_to(out, "\n{:{}}", result.way.name, width);
    for (const auto& column : columns())
      fmt::format_to(out, "  {:>{}}", column.text(result.score), column.title.size());
  }
  return text;
}

std::string Comparison::json() const {
  Json json{{"request", Json::parse(request)}, {"ways", Json::array()}};
  for (const auto& result : ways) json["ways"].push_back(json_of(result, json["request"]));
  return json.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
}

torch::Tensor Comparison::contact_sheet() const {
  constexpr std::int64_t kSmallest = 128;
  check_argument(!ways.empty() && !ways[0].pictures.empty(), "no prompt was run: there are no pictures to show");
  std::vector<std::string> titles;
  for (const auto& result : ways) {
    const auto& name = result.way.name;
    const auto comma = name.find(", ");
    titles.push_back(comma == std::string::npos ? name : name.substr(0, comma) + "\n" + name.substr(comma + 2));
  }
  std::vector<ContactRow> rows;
  for (std::size_t i = 0; i < ways[0].pictures.size(); ++i) {
    rows.push_back({prompts[i], {}});
    for (const auto& result : ways) rows[i].images.push_back(shown(result.pictures[i]));
  }
  const auto scale = std::max<std::int64_t>(1, kSmallest / rows[0].images[0].size(2));
  return deepcache::contact_sheet(titles, rows, scale);
}

std::string Comparison::html() const {
  check_argument(!ways.empty(), "no prompt was run: there is nothing to show");
  const auto asked = Json::parse(request);
  return fmt::format(
      fmt::runtime(kPage), fmt::arg("title", escape_xml(asked.value("model", "") + ": ways to run it, side by side")),
      fmt::arg("asked", escape_xml(fmt::format("{}, {} steps, guidance {}, seeds {}, {}x{} pixels, {} prompts",
                                               asked.at("scheduler").get<std::string>(), asked.at("steps").dump(),
                                               asked.at("guidance_scale").dump(), asked.at("seeds").dump(),
                                               asked.at("width").dump(), asked.at("height").dump(), prompts.size()))),
      fmt::arg("table", draw_table(ways)), fmt::arg("quality", draw_quality(ways)),
      fmt::arg("errors", draw_errors(ways)), fmt::arg("pictures", draw_pictures(*this)));
}

}  // namespace deepcache
