#include "core/weighted_sum.hpp"

#include <ATen/OpMathType.h>

#include <algorithm>
#include <array>
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

/// The numbers of a plain tensor in blocks, each of one item.
struct Blocks {
  explicit Blocks(const torch::Tensor& tensor)
      : items(tensor.size(0)), item_size(tensor.numel() / items), of_item((item_size + kBlock - 1) / kBlock) {}

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
  /// As latest * (sum of weights) + weight * (term - latest) + ...: exact where all terms are equal and weights sum
  /// to 1.
  void add_up(std::span<const double> weights, std::int64_t begin, std::int64_t count, Sums<T>& sums) const {
    using Sum = at::opmath_type<T>;
    auto* sum = sums.data();
    const auto* latest = data[0] + begin;
    const auto total = static_cast<Sum>(std::accumulate(weights.begin(), weights.begin() + data.size(), 0.0));
    for (std::int64_t i = 0; i < count; ++i) sum[i] = total * static_cast<Sum>(latest[i]);
    for (std::size_t k = 1; k < data.size(); ++k) {
      const auto weight = static_cast<Sum>(weights[k]);
      const auto* term = data[k] + begin;
      for (std::int64_t i = 0; i < count; ++i)
        sum[i] += weight * (static_cast<Sum>(term[i]) - static_cast<Sum>(latest[i]));
    }
  }

  std::vector<const T*> data;
};

template <typename T>
void sum_plain(std::span<const torch::Tensor> tensors, std::span<const double> weights, torch::Tensor& out) {
  const Terms<T> terms(tensors);
  const bool shared = weights.size() == tensors.size();
  auto* result = out.mutable_data_ptr<T>();
  Blocks(out).for_each([&](std::int64_t, std::int64_t item, std::int64_t begin, std::int64_t count) {
    Sums<T> sums;
    terms.add_up(shared ? weights : weights.subspan(static_cast<std::size_t>(item) * tensors.size()), begin, count,
                 sums);
    for (std::int64_t i = 0; i < count; ++i) result[begin + i] = static_cast<T>(sums[static_cast<std::size_t>(i)]);
  });
}

torch::Tensor sum_any(std::span<const torch::Tensor> terms, std::span<const double> weights) {
  const auto dtype = at::promote_types(terms[0].scalar_type(), torch::kFloat);
  const auto count = static_cast<std::int64_t>(terms.size());
  std::vector<std::int64_t> shape(static_cast<std::size_t>(terms[0].dim()), 1);
  shape[0] = -1;
  const auto exact =
      torch::tensor(at::ArrayRef<double>(weights.data(), weights.size()), torch::kDouble).view({-1, count});
  // Each item's weights, but for the latest's their sum.
  const auto table = torch::cat({exact.sum(1, /*keepdim=*/true), exact.slice(1, 1)}, 1)
                         .to(terms[0].device(), dtype, /*non_blocking=*/true);
  const auto latest = terms[0].to(dtype);
  auto sum = latest * table.select(1, 0).view(shape);
  for (std::int64_t k = 1; k < count; ++k)
    sum += (terms[static_cast<std::size_t>(k)].to(dtype) - latest) * table.select(1, k).view(shape);
  return sum.to(terms[0].scalar_type());
}

template <typename T>
std::vector<ForecastProducts> compare_plain(const torch::Tensor& truth, std::span<const torch::Tensor> tensors,
                                            std::span<const double> weights) {
  const Terms<T> terms(tensors);
  const auto* values = truth.const_data_ptr<T>();
  const Blocks blocks(truth);
  std::vector<ForecastProducts> parts(static_cast<std::size_t>(blocks.items * blocks.of_item));
  blocks.for_each([&](std::int64_t block, std::int64_t, std::int64_t begin, std::int64_t count) {
    Sums<T> forecast;
    terms.add_up(weights, begin, count, forecast);
    ForecastProducts sums;
    for (std::int64_t i = 0; i < count; ++i) {
      const auto value = static_cast<double>(values[begin + i]);
      const auto latest = static_cast<double>(terms.data[0][begin + i]);
      const double change = value - latest;
      const double move = static_cast<double>(forecast[static_cast<std::size_t>(i)]) - latest;
      sums.truth_truth += value * value;
      sums.change_change += change * change;
      sums.change_move += change * move;
      sums.move_move += move * move;
    }
    parts[static_cast<std::size_t>(block)] = sums;
  });
  std::vector<ForecastProducts> products(static_cast<std::size_t>(blocks.items));
  for (std::size_t block = 0; block < parts.size(); ++block) {
    auto& sums = products[block / static_cast<std::size_t>(blocks.of_item)];
    sums.truth_truth += parts[block].truth_truth;
    sums.change_change += parts[block].change_change;
    sums.change_move += parts[block].change_move;
    sums.move_move += parts[block].move_move;
  }
  return products;
}

std::vector<ForecastProducts> compare_any(const torch::Tensor& truth, std::span<const torch::Tensor> terms,
                                          std::span<const double> weights) {
  const auto flat = [](const torch::Tensor& tensor) { return tensor.to(torch::kDouble).flatten(1); };
  const auto value = flat(truth), latest = flat(terms[0]), change = value - latest;
  auto move = latest * (weights[0] - 1);
  for (std::size_t k = 1; k < terms.size(); ++k) move += flat(terms[k]) * weights[k];
  const auto dot = [](const torch::Tensor& a, const torch::Tensor& b) { return (a * b).sum(1); };
  const auto table =
      torch::stack({dot(value, value), dot(change, change), dot(change, move), dot(move, move)}, 1).cpu().contiguous();
  std::vector<ForecastProducts> products;
  for (const auto* row = table.const_data_ptr<double>(); std::cmp_less(products.size(), truth.size(0)); row += 4)
    products.push_back({.truth_truth = row[0], .change_change = row[1], .change_move = row[2], .move_move = row[3]});
  return products;
}

}  // namespace

torch::Tensor weighted_sum(std::span<const torch::Tensor> terms, std::span<const double> weights,
                           torch::Tensor& buffer) {
  const auto& first = terms[0];
  if (!are_plain(first, terms)) return sum_any(terms, weights);
  if (!buffer.defined() || buffer.scalar_type() != first.scalar_type() || buffer.sizes() != first.sizes() ||
      buffer.strides() != first.strides())
    buffer = torch::empty_like(first);
  with_type(first, [&](auto number) { sum_plain<decltype(number)>(terms, weights, buffer); });
  return buffer;
}

std::vector<ForecastProducts> compare_forecast(const torch::Tensor& truth, std::span<const torch::Tensor> terms,
                                               std::span<const double> weights) {
  if (!are_plain(truth, terms)) return compare_any(truth, terms, weights);
  return with_type(truth, [&](auto number) { return compare_plain<decltype(number)>(truth, terms, weights); });
}

}  // namespace deepcache
