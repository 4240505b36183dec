#include "models/tiling.hpp"

#include <algorithm>
#include <vector>

namespace deepcache {
namespace {

constexpr std::int64_t kHeightDim = 2, kWidthDim = 3;

/// Lets the first `extent` rows (or columns) of a tile grow out of the last ones of the tile before it, in place.
void blend(const torch::Tensor& before, const torch::Tensor& tile, std::int64_t extent, std::int64_t dim) {
  extent = std::min({before.size(dim), tile.size(dim), extent});
  for (std::int64_t i = 0; i < extent; ++i) {
    const auto share = static_cast<double>(i) / static_cast<double>(extent);
    auto line = tile.select(dim, i);
    line.copy_(before.select(dim, before.size(dim) - extent + i) * (1 - share) + line * share);
  }
}

}  // namespace

torch::Tensor run_tiled(const std::function<torch::Tensor(const torch::Tensor&)>& network, const torch::Tensor& picture,
                        const TileSize& tile) {
  const auto height = picture.size(kHeightDim);
  const auto width = picture.size(kWidthDim);
  if (height <= tile.input && width <= tile.input) return network(picture);
  const auto step = tile.input * 3 / 4;
  const auto extent = tile.output / 4;
  const auto kept = tile.output - extent;

  std::vector<torch::Tensor> rows, above;
  for (std::int64_t y = 0; y < height; y += step) {
    std::vector<torch::Tensor> row, parts;
    for (std::int64_t x = 0; x < width; x += step) {
      const auto input = picture.slice(kHeightDim, y, y + tile.input).slice(kWidthDim, x, x + tile.input);
      row.push_back(network(input));
    }
    for (std::size_t i = 0; i < row.size(); ++i) {
      if (!above.empty()) blend(above[i], row[i], extent, kHeightDim);
      if (i > 0) blend(row[i - 1], row[i], extent, kWidthDim);
      parts.push_back(row[i].slice(kHeightDim, 0, kept).slice(kWidthDim, 0, kept));
    }
    rows.push_back(torch::cat(parts, kWidthDim));
    above = std::move(row);
  }
  return torch::cat(rows, kHeightDim);
}

}  // namespace deepcache
