#include "core/weighted_sum.hpp"

#include <ATen/OpMathType.h>

#include <algorithm>
#include <array>
#include <numbers>
#include <numeric>

#include "cpu/parallel.hpp"

namespace deepcache {
namespace {

constexpr std::int64_t kBlock = 2048;  // numbers, so that their sums stay in the processor's first cache

/// function(T()) for the C++ type of a plain tensor's numbers.
template <typename Function>
auto with_type(const torch::Tensor& tensor, const Function& function) {
  const auto dtype = tensor.scalar_type();
  if (dtype == torch::kHalf) return function(at::Half());
  if (dtype == torch::kBFloat16) return function(at::BFloat16());
  if (dtype == torch::kDouble) return function(double());
  return function(float());
}

bool has_known_type(const torch::Tensor& tensor) {
  constexpr std::array kTypes{torch::kHalf, torch::kBFloat16, torch::kDouble, torch::kFloat};
  return std::ranges::find(kTypes, tensor.scalar_type()) != kTypes.end();
}

/// On the CPU and laid out alike, each item of the batch in one piece.
bool are_plain(const torch::Tensor& first, std::span<const torch::Tensor> others) {
  const auto alike = [&](const torch::Tensor& other) { return other.is_cpu() && other.strides() == first.strides(); };
  return first.is_cpu() && has_known_type(first) && first.is_non_overlapping_and_dense() && first.numel() > 0 &&
         first.stride(0) * first.size(0) == first.numel() && std::ranges::all_of(others, alike);
}

/// The numbers of a plain tensor in blocks, each of one item; of the first items alone, if so many are given.
struct Blocks {
  explicit Blocks(const torch::Tensor& tensor) : Blocks(tensor, tensor.size(0)) {}
  Blocks(const torch::Tensor& tensor, std::int64_t num_items)
      : items(num_items), item_size(tensor.numel() / tensor.size(0)), of_item((item_size + kBlock - 1) / kBlock) {}

  /// function(block, item, begin, count), by LibTorch's threads.
  template <typename Function>
  void for_each(const Function& function) const {
    cpu::parallel_for(items * of_item, [&](std::int64_t first, std::int64_t last) {
      for (auto block = first; block < last; ++block) {
        const auto item = block / of_item, begin = block % of_item * kBlock;
        function(block, item, item * item_size + begin, std::min(kBlock, item_size - begin));
      }
    });
  }

  std::int64_t items, item_size, of_item;
};

template <typename T>
using Sums = std::array<at::opmath_type<T>, kBlock>;

template <typename T>
struct Terms {
  explicit Terms(std::span<const torch::Tensor> tensors) {
    for (const auto& tensor : tensors) data.push_back(tensor.const_data_ptr<T>());
  }
  /// As latest * (sum of weights) + share * weight * (term - latest) + ...: exact where all terms are equal and weights
  /// sum to 1.
  void add_up(std::span<const double> weights, double share, std::int64_t begin, std::int64_t count,
              Sums<T>& sums) const {
    using Sum = at::opmath_type<T>;
    auto* sum = sums.data();
    const auto* latest = data[0] + begin;
    const auto total = static_cast<Sum>(std::accumulate(weights.begin(), weights.end(), 0.0));
    for (std::int64_t i = 0; i < count; ++i) sum[i] = total * static_cast<Sum>(latest[i]);
    add_move(weights, share, begin, count, sums);
  }
  /// The same without the first summand, added to the sums.
  void add_move(std::span<const double> weights, double share, std::int64_t begin, std::int64_t count,
                Sums<T>& sums) const {
    using Sum = at::opmath_type<T>;
    auto* sum = sums.data();
    const auto* latest = data[0] + begin;
    for (std::size_t k = 1; k < data.size(); ++k) {
      const auto weight = static_cast<Sum>(share * weights[k]);
      const auto* term = data[k] + begin;
      for (std::int64_t i = 0; i < count; ++i)
        sum[i] += weight * (static_cast<Sum>(term[i]) - static_cast<Sum>(latest[i]));
    }
  }

  std::vector<const T*> data;
};

template <typename T>
void sum_plain(std::span<const torch::Tensor> tensors, std::span<const double> weights, std::span<const Shares> shares,
               torch::Tensor& out) {
  const Terms<T> terms(tensors);
  auto* result = out.mutable_data_ptr<T>();
  const Blocks blocks(out);
  const auto half = blocks.items / 2;
  blocks.for_each([&](std::int64_t, std::int64_t item, std::int64_t begin, std::int64_t count) {
    Sums<T> sums;
    const auto share = shares.empty() ? Shares() : shares[static_cast<std::size_t>(item)];
    terms.add_up(weights, share.own, begin, count, sums);
    if (share.partner != 0)
      terms.add_move(weights, share.partner, begin + (item < half ? half : -half) * blocks.item_size, count, sums);
    for (std::int64_t i = 0; i < count; ++i) result[begin + i] = static_cast<T>(sums[static_cast<std::size_t>(i)]);
  });
}

void add(ForecastProducts& sums, double value, double change, double move) {
  sums.truth_truth += value * value;
  sums.change_change += change * change;
  sums.change_move += change * move;
  sums.move_move += move * move;
}

/// A truth and its forecast, number by number, less the latest term.
template <typename T>
struct Block {
  Block(const T* values, const Terms<T>& terms, std::span<const double> weights, std::int64_t begin, std::int64_t count)
      : truth(values + begin), latest(terms.data[0] + begin) {
    terms.add_up(weights, 1, begin, count, forecast);
  }
  double value(std::int64_t i) const { return static_cast<double>(truth[i]); }
  double change(std::int64_t i) const { return value(i) - static_cast<double>(latest[i]); }
  double move(std::int64_t i) const {
    return static_cast<double>(forecast[static_cast<std::size_t>(i)]) - static_cast<double>(latest[i]);
  }

  const T *truth, *latest;
  Sums<T> forecast;
};

template <typename T>
std::vector<ForecastProducts> compare_plain(const torch::Tensor& truth, std::span<const torch::Tensor> tensors,
                                            std::span<const double> weights, bool of_halves) {
  const Terms<T> terms(tensors);
  const auto* values = truth.const_data_ptr<T>();
  const auto num_items = of_halves ? truth.size(0) / 2 : truth.size(0);
  const Blocks blocks(truth, num_items);
  const auto num_blocks = static_cast<std::size_t>(blocks.items * blocks.of_item);
  std::vector<ForecastProducts> parts(of_halves ? 2 * num_blocks : num_blocks);
  blocks.for_each([&](std::int64_t block, std::int64_t, std::int64_t begin, std::int64_t count) {
    const Block<T> first(values, terms, weights, begin, count);
    ForecastProducts sums;
    if (!of_halves) {
      for (std::int64_t i = 0; i < count; ++i) add(sums, first.value(i), first.change(i), first.move(i));
    } else {
      const Block<T> second(values, terms, weights, begin + num_items * blocks.item_size, count);
      ForecastProducts differences;
      for (std::int64_t i = 0; i < count; ++i) {
        add(sums, second.value(i) + first.value(i), second.change(i) + first.change(i), second.move(i) + first.move(i));
        add(differences, second.value(i) - first.value(i), second.change(i) - first.change(i),
            second.move(i) - first.move(i));
      }
      parts[num_blocks + static_cast<std::size_t>(block)] = differences;
    }
    parts[static_cast<std::size_t>(block)] = sums;
  });
  std::vector<ForecastProducts> products(static_cast<std::size_t>(truth.size(0)));
  const double scale = of_halves ? 0.5 : 1;  // (first + second) / sqrt(2), squared
  for (std::size_t block = 0; block < parts.size(); ++block) {
    auto& sums = products[block / static_cast<std::size_t>(blocks.of_item)];
    sums.truth_truth += scale * parts[block].truth_truth;
    sums.change_change += scale * parts[block].change_change;
    sums.change_move += scale * parts[block].change_move;
    sums.move_move += scale * parts[block].move_move;
  }
  return products;
}

std::vector<ForecastProducts> compare_any(const torch::Tensor& truth, std::span<const torch::Tensor> terms,
                                          std::span<const double> weights, bool of_halves) {
  const auto flat = [](const torch::Tensor& tensor) { return tensor.to(torch::kDouble).flatten(1); };
  const auto parts = [of_halves](const torch::Tensor& items) {
    if (!of_halves) return items;
    const auto halves = items.chunk(2);
    return torch::cat({halves[1] + halves[0], halves[1] - halves[0]}) / std::numbers::sqrt2;
  };
  const auto latest = flat(terms[0]);
  auto moved = latest * (weights[0] - 1);
  for (std::size_t k = 1; k < terms.size(); ++k) moved += flat(terms[k]) * weights[k];
  const auto value = parts(flat(truth)), change = value - parts(latest), move = parts(moved);
  const auto dot = [](const torch::Tensor& a, const torch::Tensor& b) { return (a * b).sum(1); };
  const auto table =
      torch::stack({dot(value, value), dot(change, change), dot(change, move), dot(move, move)}, 1).cpu().contiguous();
  std::vector<ForecastProducts> products;
  for (const auto* row = table.const_data_ptr<double>(); std::cmp_less(products.size(), truth.size(0)); row += 4)
    products.push_back({.truth_truth = row[0], .change_change = row[1], .change_move = row[2], .move_move = row[3]});
  return products;
}

}  // namespace

torch::Tensor weighted_sum(std::span<const torch::Tensor> terms, std::span<const double> weights, torch::Tensor& buffer,
                           std::span<const Shares> shares) {
  const auto& first = terms[0];
  if (!are_plain(first, terms)) {
    const auto coefficients = sum_coefficients(weights, shares, std::ssize(terms), first.size(0), !shares.empty());
    return weighted_sum_by(coefficients.to(first.device(), /*non_blocking=*/true), terms);
  }
  if (!buffer.defined() || buffer.scalar_type() != first.scalar_type() || buffer.sizes() != first.sizes() ||
      buffer.strides() != first.strides())
    buffer = torch::empty_like(first);
  with_type(first, [&](auto number) { sum_plain<decltype(number)>(terms, weights, shares, buffer); });
  return buffer;
}

torch::Tensor sum_coefficients(std::span<const double> weights, std::span<const Shares> shares, std::int64_t num_terms,
                               std::int64_t num_items, bool with_partners) {
  auto coefficients = torch::zeros({with_partners ? 2 * num_terms - 1 : num_terms, num_items}, torch::kDouble);
  coefficients[0].fill_(std::accumulate(weights.begin(), weights.end(), 0.0));
  auto of = coefficients.accessor<double, 2>();
  for (std::int64_t k = 1; k < std::ssize(weights); ++k)
    for (std::int64_t item = 0; item < num_items; ++item) {
      const auto share = shares.empty() ? Shares() : shares[static_cast<std::size_t>(item)];
      const auto weight = weights[static_cast<std::size_t>(k)];
      of[k][item] = share.own * weight;
      if (with_partners) of[num_terms - 1 + k][item] = share.partner * weight;
    }
  return coefficients;
}

torch::Tensor weighted_sum_by(const torch::Tensor& coefficients, std::span<const torch::Tensor> terms) {
  const auto dtype = at::promote_types(terms[0].scalar_type(), torch::kFloat);
  const auto latest = terms[0].to(dtype);
  std::vector<std::int64_t> shape(static_cast<std::size_t>(latest.dim()), 1);
  shape[0] = latest.size(0);
  const auto rows = coefficients.to(dtype).unbind();
  auto sum = latest * rows[0].view(shape);
  std::vector<torch::Tensor> moves;
  for (const auto& term : terms.subspan(1)) moves.push_back(term.to(dtype) - latest);
  for (std::size_t k = 0; k < moves.size(); ++k) sum += moves[k] * rows[k + 1].view(shape);
  for (auto k = terms.size(); k < rows.size(); ++k)
    sum += moves[k - terms.size()].roll(latest.size(0) / 2, 0) * rows[k].view(shape);
  return sum.to(terms[0].scalar_type());
}

std::vector<ForecastProducts> compare_forecast(const torch::Tensor& truth, std::span<const torch::Tensor> terms,
                                               std::span<const double> weights, bool of_halves) {
  if (!are_plain(truth, terms)) return compare_any(truth, terms, weights, of_halves);
  return with_type(truth,
                   [&](auto number) { return compare_plain<decltype(number)>(truth, terms, weights, of_halves); });
}

}  // namespace deepcache
