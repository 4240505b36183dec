#pragma once

#include <string>
#include <utility>
#include <vector>

namespace deepcache {

struct ChartLine {
  std::string name;
  std::string color;                              ///< as SVG takes it
  std::string dashes = {};                        ///< "4 2"; empty: an unbroken line
  std::vector<std::pair<double, double>> points;  ///< what isn't finite is left out; so is 0 or below, where logarithms
                                                  ///< are taken
};

struct LineChart {
  std::string x_label, y_label;
  bool log_y = false;
  bool markers = false;  ///< a dot at each point, which says where it is when it is pointed at
  std::vector<ChartLine> lines;
};

/// Text as XML and HTML take it.
std::string escape_xml(const std::string& text);

/// An SVG element with axes, lines and a legend, 760 units wide.
std::string draw_svg(const LineChart& chart);

}  // namespace deepcache
