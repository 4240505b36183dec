#include "io/line_chart.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <iterator>
#include <limits>

namespace deepcache {
namespace {

constexpr double kWidth = 760, kHeight = 380;
constexpr double kLegendLine = 18;
constexpr double kLeft = 60, kRight = 530, kTop = 12, kBottom = 330;  // of the plot; the legend is beside it

/// A range of values, and where it lies on the page.
class Axis {
 public:
  Axis(double from, double to) : from_(from), to_(to) {}

  void include(double value) {
    low_ = std::min(low_, value);
    high_ = std::max(high_, value);
  }

  /// Widens the range to whole steps of 1, 2 or 5 times a power of ten, of which there are some five.
  void settle(bool whole) {
    if (low_ > high_) low_ = high_ = 0;
    const double span = std::max(high_ - low_, whole ? 1.0 : 1e-9);
    step_ = std::pow(10, std::floor(std::log10(span / 5)));
    for (const double factor : {2.0, 2.5, 2.0})  // 2, 5, 10
      if (span / step_ > 6) step_ *= factor;
    if (whole) step_ = std::max(1.0, step_);
    low_ = std::floor(low_ / step_) * step_;
    high_ = std::max(std::ceil(high_ / step_) * step_, low_ + step_);
  }

  double place(double value) const { return from_ + (value - low_) / (high_ - low_) * (to_ - from_); }

  std::vector<double> ticks() const {
    std::vector<double> ticks;
    const auto count = std::lround((high_ - low_) / step_);
    for (long i = 0; i <= count; ++i) ticks.push_back(low_ + static_cast<double>(i) * step_);
    return ticks;
  }

 private:
  double from_, to_;
  double low_ = std::numeric_limits<double>::infinity(), high_ = -low_;
  double step_ = 1;
};

std::string draw_axes(const LineChart& chart, const Axis& x, const Axis& y) {
  std::string svg;
  const auto out = std::back_inserter(svg);
  for (const auto tick : x.ticks())
    fmt::format_to(out,
                   "<line class='grid' x1='{0:.1f}' x2='{0:.1f}' y1='{1}' y2='{2}'/><text x='{0:.1f}' y='{3}' "
                   "text-anchor='middle'>{4:.4g}</text>\n",
                   x.place(tick), kTop, kBottom, kBottom + 18, tick + 0.0);
  for (const auto tick : y.ticks())
    fmt::format_to(out,
                   "<line class='grid' x1='{0}' x2='{1}' y1='{2:.1f}' y2='{2:.1f}'/><text x='{3}' y='{4:.1f}' "
                   "text-anchor='end'>{5:.4g}</text>\n",
                   kLeft, kRight, y.place(tick), kLeft - 6, y.place(tick) + 4,
                   chart.log_y ? std::pow(10, tick) : tick + 0.0);
  fmt::format_to(out, "<text x='{}' y='{}' text-anchor='middle'>{}</text>\n", (kLeft + kRight) / 2, kBottom + 40,
                 escape_xml(chart.x_label));
  fmt::format_to(out, "<text transform='translate(14 {}) rotate(-90)' text-anchor='middle'>{}</text>\n",
                 (kTop + kBottom) / 2, escape_xml(chart.y_label));
  return svg;
}

}  // namespace

std::string escape_xml(const std::string& text) {
  std::string escaped;
  for (const char c : text) switch (c) {
      case '&':
        escaped += "&amp;";
        break;
      case '<':
        escaped += "&lt;";
        break;
      case '>':
        escaped += "&gt;";
        break;
      case '"':
        escaped += "&quot;";
        break;
      case '\'':
        escaped += "&#39;";
        break;
      default:
        escaped += c;
    }
  return escaped;
}

std::string draw_svg(const LineChart& chart) {
  const auto value = [&](double y) { return chart.log_y ? std::log10(y) : y; };
  Axis x(kLeft, kRight), y(kBottom, kTop);
  auto lines = chart.lines;
  for (auto& line : lines) {
    std::erase_if(line.points, [&](const auto& point) {
      return !std::isfinite(point.first) || !std::isfinite(value(point.second));
    });
    for (const auto& point : line.points) {
      x.include(point.first);
      y.include(value(point.second));
    }
  }
  x.settle(false);
  y.settle(chart.log_y);
  const auto legend_end = kTop + 12 + kLegendLine * static_cast<double>(lines.size());
  auto svg = fmt::format("<svg viewBox='0 0 {} {}' role='img'>\n", kWidth, std::max(kHeight, legend_end)) +
             draw_axes(chart, x, y);
  const auto out = std::back_inserter(svg);
  double legend = kTop + 12;
  for (const auto& line : lines) {
    const auto name = escape_xml(line.name);
    const auto style = fmt::format("stroke='{}' stroke-dasharray='{}'", line.color, line.dashes);
    fmt::format_to(out, "<g><title>{}</title><polyline class='line' {} points='", name, style);
    for (const auto& point : line.points)
      fmt::format_to(out, "{:.1f},{:.1f} ", x.place(point.first), y.place(value(point.second)));
    fmt::format_to(out, "'/>\n");
    if (chart.markers)
      for (const auto& point : line.points)
        fmt::format_to(out,
                       "<circle cx='{:.1f}' cy='{:.1f}' r='4' fill='{}'><title>{}: {:.4g}, {:.4g}</title></circle>\n",
                       x.place(point.first), y.place(value(point.second)), line.color, name, point.first, point.second);
    fmt::format_to(out, "<line class='line' {} x1='{}' x2='{}' y1='{}' y2='{}'/><text x='{}' y='{}'>{}</text></g>\n",
                   style, kRight + 16, kRight + 44, legend - 4, legend - 4, kRight + 50, legend, name);
    legend += kLegendLine;
  }
  return svg + "</svg>\n";
}

}  // namespace deepcache
