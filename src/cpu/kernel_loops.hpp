#pragma once

#include <cstdint>
#include <numbers>

#include "cpu/kernels.hpp"

// Compiled for other processors than the rest of the library: includes nothing whose inline functions other files use
// too, and has templates of the vectors V alone.
namespace deepcache::cpu {

/// function(offset, mask) for each vector of `size` numbers.
template <typename V, typename Function>
void for_lanes(std::int64_t size, const Function& function) {
  std::int64_t i = 0;
  for (; i + V::kLanes <= size; i += V::kLanes) function(i, V::kAll);
  if (i < size) function(i, V::first(size - i));
}

/// lanes = function(lanes, offset, mask), likewise: handed on, so that it stays in a register.
template <typename V, typename Function>
auto fold_lanes(std::int64_t size, typename V::Floats lanes, const Function& function) {
  std::int64_t i = 0;
  for (; i + V::kLanes <= size; i += V::kLanes) lanes = function(lanes, i, V::kAll);
  return i < size ? function(lanes, i, V::first(size - i)) : lanes;
}

/// 2^x: by the whole part of x, and for what is left, from -0.5 to 0.5, a polynomial, the highest power first.
template <typename V, typename... Coefficients>
auto exp2_by(typename V::Floats x, float highest, Coefficients... lower) {
  x = V::max(V::all(V::kLeastExponent), x);  // -inf has no rest; of two operands, NaN is the second
  const auto whole = V::round(x);
  const auto rest = x - whole;
  auto power = V::all(highest);
  ((power = V::fmadd(power, rest, V::all(lower))), ...);
  return V::scale(power, whole);
}

// The polynomials are those of their degrees whose largest relative error is least.

/// Within 1e-7 of 2^x.
template <typename V>
auto exp2(typename V::Floats x) {
  return exp2_by<V>(x, 1.534581200e-4F, 1.339993127e-3F, 9.618488958e-3F, 5.550328777e-2F, 2.402264689e-1F,
                    std::numbers::ln2_v<float>, 1.0F);
}

/// As exact as the numbers that it becomes: for bfloat16, which rounds by up to 2e-3 of it, within 8e-5.
template <typename V, typename T>
auto exp2_for(typename V::Floats x) {
  if constexpr (sizeof(T) == sizeof(float))
    return exp2<V>(x);
  else  // NOLINTNEXTLINE(modernize-use-std-numbers)
    return exp2_by<V>(x, 5.517167e-2F, 2.4261112e-1F, 6.9326099e-1F, 9.9992807e-1F);
}

inline constexpr float kLog2E = std::numbers::log2e_v<float>;
inline constexpr float kRoundedByOne = 1 << 24;  // float32 numbers from here on are more than 1 apart

template <typename V>
auto sigmoid(typename V::Floats x) {
  return V::all(1) / (V::all(1) + exp2<V>(x * V::all(-kLog2E)));
}

/// x / 2 * (1 + erf(x / sqrt(2))), with erf of Abramowitz and Stegun's equation 7.1.26 (within 1.5e-7).
template <typename V>
auto gelu(typename V::Floats x) {
  const auto scaled = V::abs(x) * V::all(0.707106781F);
  const auto t = V::all(1) / V::fmadd(V::all(0.3275911F), scaled, V::all(1));
  auto sum = V::all(1.061405429F);
  for (const float coefficient : {-1.453152027F, 1.421413741F, -0.284496736F, 0.254829592F})
    sum = V::fmadd(sum, t, V::all(coefficient));
  const auto falling = exp2<V>(scaled * scaled * V::all(-kLog2E));
  const auto erfc = sum * t * falling;  // of the absolute value
  return x * V::all(0.5F) * V::if_positive(x, V::all(2) - erfc, erfc);
}

template <typename V, typename T>
void softmax_block(const SoftmaxBlock& b, T* weights) {
  const auto scale = b.scale * kLog2E;  // powers of two from here on
  for (std::int64_t row = 0; row < b.rows; ++row) {
    const float* scores = b.scores + row * b.columns_stride;
    T* out = weights + row * b.columns_stride;
    auto largest = V::all(-__builtin_inff()), others = largest;  // two, neither of which waits for the other
    std::int64_t seen = 0;
    for (; seen + 2 * V::kLanes <= b.columns; seen += 2 * V::kLanes) {
      largest = V::max(largest, V::load(scores + seen, V::kAll));
      others = V::max(others, V::load(scores + seen + V::kLanes, V::kAll));
    }
    largest = fold_lanes<V>(b.columns - seen, V::max(largest, others), [&](auto lanes, std::int64_t c, auto mask) {
      return V::max(lanes, V::load(scores + seen + c, mask), mask);
    });
    auto maximum = V::maximum(largest);
    float before = 0;
    if (!b.first) {
      maximum = maximum > b.maximum[row] ? maximum : b.maximum[row];
      const auto correction = exp2<V>(V::all((b.maximum[row] - maximum) * scale));
      before = b.sum[row] * V::front(correction);
      float* output = b.output + row * b.head_dim;
      for_lanes<V>(b.head_dim, [&](std::int64_t i, auto mask) {
        V::store(output + i, V::load(output + i, mask) * correction, mask);
      });
    }
    const auto weigh = [&](const auto& exponent_of) {
      return fold_lanes<V>(b.columns, V::all(0), [&](auto lanes, std::int64_t c, auto mask) {
        const auto weight = V::keep(exp2_for<V, T>(exponent_of(V::load(scores + c, mask))), mask);
        V::store(out + c, weight, mask);
        return lanes + weight;
      });
    };
    const auto top = maximum * scale;
    const auto sums =
        top > -kRoundedByOne && top < kRoundedByOne  // then one operation does: its error is the same for all weights
            ? weigh([&](auto score) { return V::fmsub(score, V::all(scale), V::all(top)); })
            : weigh([&](auto score) { return (score - V::all(maximum)) * V::all(scale); });
    if (sizeof(T) < sizeof(float) && b.columns % 2 == 1) out[b.columns] = T();
    b.sum[row] = before + V::sum(sums);
    b.maximum[row] = maximum;
  }
}

template <typename V, typename T>
void scale_row(const float* input, std::int64_t size, float factor, T* output) {
  for_lanes<V>(
      size, [&](std::int64_t i, auto mask) { V::store(output + i, V::load(input + i, mask) * V::all(factor), mask); });
}

template <typename V, typename T>
void add_bias(const Tile& t, const T* added, T* output) {
  for (std::int64_t row = 0; row < t.rows; ++row)
    for_lanes<V>(t.columns, [&](std::int64_t c, auto mask) {
      const auto place = row * t.output_stride + c;
      const auto sum = V::load(t.input + row * t.input_stride + c, mask) + V::load(t.bias + c, mask);
      V::store(output + place, added == nullptr ? sum : sum + V::load(added + place, mask), mask);
    });
}

template <typename V, typename T>
void add_moments(const T* input, const T* pivot, std::int64_t rows, std::int64_t channels, const Moments& m) {
  for (std::int64_t row = 0; row < rows; ++row)
    for_lanes<V>(channels, [&](std::int64_t c, auto mask) {
      const auto x = V::load(input + row * channels + c, mask) - V::load(pivot + c, mask);
      V::store(m.sums + c, V::load(m.sums + c, mask) + x, mask);
      V::store(m.squares + c, V::fmadd(x, x, V::load(m.squares + c, mask)), mask);
    });
}

template <typename V, typename T>
void apply(const Affine& a, const T* input, std::int64_t rows, std::int64_t channels, T* output) {
  for (std::int64_t row = 0; row < rows; ++row)
    for_lanes<V>(channels, [&](std::int64_t c, auto mask) {
      const auto i = row * channels + c;
      const auto x = V::fmadd(V::load(input + i, mask), V::load(a.scale + c, mask), V::load(a.shift + c, mask));
      V::store(output + i, a.silu ? x * sigmoid<V>(x) : x, mask);
    });
}

template <typename V, typename T>
void gated_gelu(const T* values, const T* gates, std::int64_t size, T* output) {
  for_lanes<V>(size, [&](std::int64_t i, auto mask) {
    V::store(output + i, V::load(values + i, mask) * gelu<V>(V::load(gates + i, mask)), mask);
  });
}

// NOLINTBEGIN(modernize-avoid-c-arrays): std::array's functions are those of other files too.

template <typename V, typename T>
void winograd_input(const T* const* pixels, std::int64_t first, std::int64_t channels, std::int64_t stride, T* output) {
  for_lanes<V>(channels, [&](std::int64_t c, auto mask) {
    typename V::Floats rows[4][4];
    for (int x = 0; x < 4; ++x) {
      const auto a = V::load(pixels[x] + first + c, mask), b = V::load(pixels[4 + x] + first + c, mask),
                 d = V::load(pixels[8 + x] + first + c, mask), e = V::load(pixels[12 + x] + first + c, mask);
      rows[0][x] = a - d;
      rows[1][x] = b + d;
      rows[2][x] = d - b;
      rows[3][x] = b - e;
    }
    for (std::int64_t y = 0; y < 4; ++y) {
      const auto* row = rows[y];
      T* out = output + y * 4 * stride + c;
      V::store(out, row[0] - row[2], mask);
      V::store(out + stride, row[1] + row[2], mask);
      V::store(out + 2 * stride, row[2] - row[1], mask);
      V::store(out + 3 * stride, row[1] - row[3], mask);
    }
  });
}

template <typename V, typename T>
void winograd_weight(const T* taps, std::int64_t tap_stride, std::int64_t size, std::int64_t stride, T* output) {
  const auto half = V::all(0.5F);
  for_lanes<V>(size, [&](std::int64_t i, auto mask) {
    typename V::Floats rows[4][3];
    for (int x = 0; x < 3; ++x) {
      const T* tap = taps + x * tap_stride + i;
      const auto a = V::load(tap, mask), b = V::load(tap + 3 * tap_stride, mask),
                 c = V::load(tap + 6 * tap_stride, mask);
      const auto outer = (a + c) * half, inner = b * half;
      rows[0][x] = a;
      rows[1][x] = outer + inner;
      rows[2][x] = outer - inner;
      rows[3][x] = c;
    }
    for (std::int64_t y = 0; y < 4; ++y) {
      const auto* row = rows[y];
      T* out = output + y * 4 * stride + i;
      const auto outer = (row[0] + row[2]) * half, inner = row[1] * half;
      V::store(out, row[0], mask);
      V::store(out + stride, outer + inner, mask);
      V::store(out + 2 * stride, outer - inner, mask);
      V::store(out + 3 * stride, row[2], mask);
    }
  });
}

template <typename V, typename T>
void winograd_output(const float* sums, std::int64_t stride, const Pixels& pixels, const float* bias, const T* added,
                     T* output) {
  for_lanes<V>(pixels.channels, [&](std::int64_t c, auto mask) {
    typename V::Floats rows[2][4];
    for (int x = 0; x < 4; ++x) {
      const float* sum = sums + x * stride + c;
      const auto b = V::load(sum + 4 * stride, mask), d = V::load(sum + 8 * stride, mask);
      rows[0][x] = V::load(sum, mask) + b + d;
      rows[1][x] = b - d - V::load(sum + 12 * stride, mask);
    }
    const auto shift = V::load(bias + c, mask);
    for (std::int64_t y = 0; y < pixels.height; ++y)
      for (std::int64_t x = 0; x < pixels.width; ++x) {
        const auto* row = rows[y];
        const auto value = (x == 0 ? row[0] + row[1] + row[2] : row[1] - row[2] - row[3]) + shift;
        const auto place = y * pixels.row_stride + x * pixels.pixel_stride + c;
        V::store(output + place, added == nullptr ? value : value + V::load(added + place, mask), mask);
      }
  });
}

// NOLINTEND(modernize-avoid-c-arrays)

/// A table of products, with these loops.
template <typename V, typename T>
constexpr Kernels<T> with_loops(Kernels<T> table) {
  table.softmax_block = softmax_block<V, T>;
  table.scale_row = scale_row<V, T>;
  table.add_bias = add_bias<V, T>;
  table.add_moments = add_moments<V, T>;
  table.apply = apply<V, T>;
  table.gated_gelu = gated_gelu<V, T>;
  table.winograd_input = winograd_input<V, T>;
  table.winograd_weight = winograd_weight<V, T>;
  table.winograd_output = winograd_output<V, T>;
  return table;
}

}  // namespace deepcache::cpu
