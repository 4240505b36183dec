#include "cpu/winograd.hpp"

#include <ATen/Parallel.h>

#include <algorithm>
#include <array>

#include "cpu/kernels.hpp"
#include "cpu/parallel.hpp"

namespace deepcache::cpu {
namespace {

constexpr std::int64_t kPlaces = 16;  // of a transformed tile

// What is computed together.
constexpr std::int64_t kTransformed = 1 << 19;  // numbers of the input, for each thread: 2 MiB
constexpr std::int64_t kTilesTogether = 126;    // of these
constexpr std::int64_t kInputsTogether = 64;    // with the tiles, 32 KiB at each place
constexpr std::int64_t kOutputsTogether = 32;   // with the tiles, 256 KiB of sums

/// The tiles of the output, row by row, picture by picture.
struct Tiles {
  explicit Tiles(const torch::Tensor& output)
      : height(output.size(2)),
        width(output.size(3)),
        rows(divide_up(height, 2)),
        columns(divide_up(width, 2)),
        count(output.size(0) * rows * columns) {}
  std::int64_t height, width, rows, columns, count;
};

/// The top left output pixel of a tile.
struct Corner {
  Corner(const Tiles& tiles, std::int64_t tile)
      : picture(tile / tiles.columns / tiles.rows),
        y(tile / tiles.columns % tiles.rows * 2),
        x(tile % tiles.columns * 2) {}
  std::int64_t picture, y, x;
};

/// What is multiplied: of each `depth` inputs [places, tiles, depth], with the places `stride` apart.
struct Transformed {
  std::int64_t depth, stride;
  float* data;
};

void transform_tile(const torch::Tensor& input, torch::IntArrayRef padding, const Corner& corner, const float* zeros,
                    const Transformed& transformed, std::int64_t tile) {
  const auto channels = input.size(1), height = input.size(2), width = input.size(3);
  const auto* read = input.const_data_ptr<float>();
  std::array<const float*, kPlaces> pixels{};
  for (std::int64_t place = 0; place < kPlaces; ++place) {
    const auto y = corner.y - padding[0] + place / 4, x = corner.x - padding[1] + place % 4;
    const bool inside = y >= 0 && y < height && x >= 0 && x < width;
    pixels[static_cast<std::size_t>(place)] =
        inside ? read + ((corner.picture * height + y) * width + x) * channels : zeros;
  }
  auto* written = transformed.data + tile * transformed.depth;
  for (std::int64_t first = 0; first < channels; first += transformed.depth, written += kPlaces * transformed.stride)
    kernels<float>().winograd_input(pixels.data(), first, std::min(transformed.depth, channels - first),
                                    transformed.stride, written);
}

/// Sums of the places: of each [tiles, columns].
struct Places {
  std::int64_t tiles, columns, row_stride, stride;
};

/// sums of each place [tiles, columns] = what is transformed from tile `first` on * the weights of `columns` outputs
void multiply_places(const Transformed& transformed, std::int64_t first, const torch::Tensor& packed,
                     std::int64_t first_output, const Places& sizes, float* weights, float* sums) {
  const auto& kernel = kernels<float>();
  const auto inputs = packed.size(2), block = packed.size(3);
  const auto* data = transformed.data + first * transformed.depth;
  for (std::int64_t begin = 0; begin < inputs; begin += transformed.depth, data += kPlaces * transformed.stride) {
    const auto depth = std::min(transformed.depth, inputs - begin), stride = odd_stride(depth * block);
    for (std::int64_t column = 0; column < sizes.columns; column += block) {
      kernel.winograd_weight(packed.const_data_ptr<float>() + (first_output + column) * 9 * inputs + begin * block,
                             inputs * block, depth * block, stride, weights);
      for (std::int64_t place = 0; place < kPlaces; ++place)
        kernel.multiply({.rows = sizes.tiles,
                         .columns = std::min(block, sizes.columns - column),
                         .depth = depth,
                         .left_stride = transformed.depth,
                         .right_stride = block,
                         .right_panel = 0,
                         .sums_stride = sizes.row_stride,
                         .adds = begin > 0},
                        data + place * transformed.stride, weights + place * stride,
                        sums + place * sizes.stride + column);
    }
  }
}

}  // namespace

bool pays_as_winograd(std::int64_t inputs, const torch::Tensor& output) {
  const Tiles tiles(output);
  return inputs >= 64 && output.size(1) >= 64 && tiles.rows * tiles.columns >= 4;
}

void winograd_convolution(const torch::Tensor& input, const torch::Tensor& packed, torch::IntArrayRef padding,
                          const std::vector<float>& bias, const torch::Tensor& added, const torch::Tensor& output) {
  const auto inputs = packed.size(2), block = packed.size(3), outputs = output.size(1);
  const auto depth = std::min(kInputsTogether, inputs), chunks = divide_up(inputs, depth);
  const auto columns = std::max(block, kOutputsTogether), groups = divide_up(outputs, columns);
  const Tiles tiles(output);
  const auto most = kTransformed * at::get_num_threads() / (kPlaces * chunks * depth) / kTilesTogether * kTilesTogether;
  const auto part = divide_up(tiles.count, divide_up(tiles.count, std::max(kTilesTogether, most)));
  const auto tiles_together = together(part, kTilesTogether, groups);
  const auto left_stride = odd_stride(part * depth), sums_stride = odd_stride(tiles_together * columns);
  const auto lefts = torch::empty({chunks, kPlaces, left_stride}, input.options());
  const Transformed transformed{depth, left_stride, lefts.mutable_data_ptr<float>()};
  const std::vector<float> zeros(static_cast<std::size_t>(inputs));
  const auto* const also = added.defined() ? added.const_data_ptr<float>() : nullptr;
  auto* const written = output.mutable_data_ptr<float>();

  for (std::int64_t first_tile = 0; first_tile < tiles.count; first_tile += part) {
    const auto count = std::min(part, tiles.count - first_tile);
    parallel_for(count, [&](std::int64_t begin, std::int64_t end) {
      for (auto tile = begin; tile < end; ++tile)
        transform_tile(input, padding, Corner(tiles, first_tile + tile), zeros.data(), transformed, tile);
    });
    const auto spans = divide_up(count, tiles_together);
    parallel_for(groups * spans, [&](std::int64_t begin, std::int64_t end) {
      const auto sums = torch::empty({kPlaces, sums_stride}, input.options());
      const auto weights = torch::empty({kPlaces, odd_stride(depth * block)}, input.options());
      auto* const summed = sums.mutable_data_ptr<float>();
      for (auto task = begin; task < end; ++task) {
        const auto first_output = task / spans * columns, first = task % spans * tiles_together;
        const Places sizes{.tiles = std::min(tiles_together, count - first),
                           .columns = std::min(columns, outputs - first_output),
                           .row_stride = columns,
                           .stride = sums_stride};
        multiply_places(transformed, first, packed, first_output, sizes, weights.mutable_data_ptr<float>(), summed);
        for (std::int64_t tile = 0; tile < sizes.tiles; ++tile) {
          const Corner corner(tiles, first_tile + first + tile);
          const Pixels pixels{.height = std::min<std::int64_t>(2, tiles.height - corner.y),
                              .width = std::min<std::int64_t>(2, tiles.width - corner.x),
                              .row_stride = tiles.width * outputs,
                              .pixel_stride = outputs,
                              .channels = sizes.columns};
          const auto offset =
              ((corner.picture * tiles.height + corner.y) * tiles.width + corner.x) * outputs + first_output;
          kernels<float>().winograd_output(summed + tile * columns, sums_stride, pixels, bias.data() + first_output,
                                           also == nullptr ? nullptr : also + offset, written + offset);
        }
      }
    });
  }
}

}  // namespace deepcache::cpu
