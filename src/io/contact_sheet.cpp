#include <stb_easy_font.h>

#include <algorithm>
#include <array>
#include <sstream>

#include "deepcache/image.hpp"
#include "error.hpp"

namespace deepcache {
namespace {

constexpr std::int64_t kMargin = 12;
constexpr std::int64_t kTextScale = 2;
constexpr std::int64_t kLineHeight = 14 * kTextScale;

std::string printable(std::string text) {
  // Each UTF-8 sequence becomes one "?": its continuation bytes go.
  std::erase_if(text, [](char c) { return (static_cast<unsigned char>(c) & 0xC0) == 0x80; });
  std::ranges::replace_if(
      text, [](unsigned char c) { return c < 32 || c > 126; }, '?');
  return text;
}

/// A line of text in black; what doesn't fit into `width` pixels is cut.
void draw_text(torch::Tensor& canvas, std::int64_t left, std::int64_t top, std::int64_t width, std::string text) {
  struct Vertex {
    float x, y, z;
    std::array<unsigned char, 4> color;
  };
  text = printable(std::move(text));
  while (!text.empty() && stb_easy_font_width(text.data()) * kTextScale > width) text.pop_back();
  std::vector<Vertex> vertices(text.size() * 280 / sizeof(Vertex) + 4);  // stb asks for 270 bytes a character
  const auto quads = stb_easy_font_print(0, 0, text.data(), nullptr, vertices.data(),
                                         static_cast<int>(vertices.size() * sizeof(Vertex)));
  for (int quad = 0; quad < quads; ++quad) {
    const auto& from = vertices[static_cast<std::size_t>(quad) * 4];
    const auto& to = vertices[static_cast<std::size_t>(quad) * 4 + 2];
    const auto scaled = [](float v) { return static_cast<std::int64_t>(v) * kTextScale; };
    canvas.slice(1, top + scaled(from.y), top + scaled(to.y))
        .slice(2, left + scaled(from.x), left + scaled(to.x))
        .fill_(0);
  }
}

std::int64_t lines_of(const std::string& text) {
  return 1 + std::ranges::count(text, '\n');
}

void draw_lines(torch::Tensor& canvas, std::int64_t left, std::int64_t top, std::int64_t width,
                const std::string& text) {
  std::istringstream stream(text);
  for (std::string line; std::getline(stream, line); top += kLineHeight) draw_text(canvas, left, top, width, line);
}

torch::Tensor enlarge(const torch::Tensor& image, std::int64_t scale) {
  return image.repeat_interleave(scale, 1).repeat_interleave(scale, 2);
}

}  // namespace

torch::Tensor contact_sheet(const std::vector<std::string>& titles, const std::vector<ContactRow>& rows,
                            std::int64_t scale, std::int64_t across) {
  check_argument(
      !titles.empty() && !rows.empty() && scale >= 1 && across >= 1,
      "a contact sheet needs titles, rows, a scale and rows across of 1 or more, got {} titles, {} rows, scale "
      "{} and {} across",
      titles.size(), rows.size(), scale, across);
  for (const auto& row : rows) {
    check_argument(row.images.size() == titles.size(), "row \"{}\" has {} images for {} titles", row.caption,
                   row.images.size(), titles.size());
    for (const auto& image : row.images)
      check_argument(image.dim() == 3 && image.sizes() == rows[0].images[0].sizes(),
                     "images of a contact sheet must have one size, got [{}] and [{}]",
                     fmt::join(rows[0].images[0].sizes(), ", "), fmt::join(image.sizes(), ", "));
  }
  const auto height = rows[0].images[0].size(1) * scale, width = rows[0].images[0].size(2) * scale;
  const auto columns = static_cast<std::int64_t>(titles.size()), count = static_cast<std::int64_t>(rows.size());
  const auto blocks = std::min(across, count), lines = (count + blocks - 1) / blocks;
  const auto row_height = kLineHeight + height + kMargin, block_width = columns * (width + kMargin) + kMargin;
  const auto column_left = [&](std::int64_t column) { return kMargin + column * (width + kMargin); };
  std::int64_t title_height = 0;
  for (const auto& title : titles) title_height = std::max(title_height, lines_of(title) * kLineHeight);
  auto canvas = torch::ones({3, kMargin + title_height + lines * row_height, blocks * block_width});
  for (std::int64_t i = 0; i < count; ++i) {
    const auto& row = rows[static_cast<std::size_t>(i)];
    auto block = canvas.slice(2, i % blocks * block_width, (i % blocks + 1) * block_width);
    const auto top = kMargin + title_height + i / blocks * row_height;
    draw_text(block, kMargin, top, block_width - 2 * kMargin, row.caption);
    for (std::int64_t column = 0; column < columns; ++column) {
      const auto left = column_left(column);
      if (i < blocks) draw_lines(block, left, kMargin, width, titles[static_cast<std::size_t>(column)]);
      block.slice(1, top + kLineHeight, top + kLineHeight + height)
          .slice(2, left, left + width)
          .copy_(enlarge(row.images[static_cast<std::size_t>(column)], scale));
    }
  }
  return canvas;
}

}  // namespace deepcache
