#include "core/non_uniform_policy.hpp"

#include <algorithm>
#include <cmath>
#include <complex>
#include <numbers>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "deepcache/cache_policy.hpp"
#include "error.hpp"

namespace deepcache {
namespace {

constexpr std::int64_t kMostSteps = 1'000'000;
constexpr double kLargestPow = 10;

using Complex = std::complex<double>;

// Truncating to whole steps makes the last bit count where a power is all but whole. So the operations are those that
// Python and NumPy make of the original's formulas, in their order.

/// Python's power of a float: that of a negative base is complex.
Complex power(double base, double exponent) {
  if (base >= 0) return std::pow(base, exponent);
  const double length = std::pow(-base, exponent);
  const double phase = std::numbers::pi * exponent;
  return {length * std::cos(phase), length * std::sin(phase)};
}

/// Of an array of real numbers, of which NumPy squares without the power function.
double array_power(double base, double exponent) {
  return exponent == 2 ? base * base : std::pow(base, exponent);
}

/// Of an array of complex numbers, of which NumPy multiplies out whole powers; the principal value.
Complex array_power(Complex base, double exponent) {
  if (base == Complex()) return base;
  if (exponent != std::floor(exponent)) return std::pow(base, Complex(exponent));
  Complex result = 1;
  for (auto bits = static_cast<std::int64_t>(exponent); bits > 0; bits /= 2, base *= base)
    if (bits % 2 == 1) result *= base;
  return result;
}

/// np.linspace's n + 1 values from start to stop, each raised to a power and truncated, of complex ones the real part.
template <typename Number>
std::set<std::int64_t> spaced_powers(Number start, Number stop, Number stride, std::int64_t n, double pow) {
  std::set<std::int64_t> values;
  for (std::int64_t k = 0; k <= n; ++k) {
    const auto value = k == n ? stop : static_cast<double>(k) * stride + start;
    values.insert(static_cast<std::int64_t>(std::real(array_power(value, pow))));
  }
  return values;
}

std::vector<std::int64_t> quad_steps(std::int64_t num_steps, std::int64_t n, double pow) {
  const double stop = std::pow(static_cast<double>(num_steps), 1 / pow);
  auto values = spaced_powers(0.0, stop, stop / static_cast<double>(n), n, pow);
  values.erase(std::prev(values.end()));
  return {values.begin(), values.end()};
}

/// Before the center, distances from it are negative, and their roots complex: the values lie on a line between two
/// points of the complex plane, and so do their powers' real parts in no simple order.
std::vector<std::int64_t> center_steps(std::int64_t num_steps, std::int64_t n, std::int64_t center, double pow) {
  const auto start = power(static_cast<double>(-center), 1 / pow);
  const auto stop = power(static_cast<double>(num_steps - center), 1 / pow);
  const auto parts = static_cast<double>(n);
  const auto values = center == 0
                          ? spaced_powers(start.real(), stop.real(), (stop.real() - start.real()) / parts, n, pow)
                          : spaced_powers(start, stop, (stop - start) * (1 / parts), n, pow);
  std::vector<std::int64_t> steps{0};
  for (auto value = std::next(values.begin()); value != values.end() && std::next(value) != values.end(); ++value)
    steps.push_back(*value + center);
  return steps;
}

void check_cache_interval(std::int64_t cache_interval) {
  check_argument(cache_interval >= 1, "cache_interval must be 1 or above, got {}", cache_interval);
}

void check_num_steps(std::int64_t num_steps) {
  check_argument(num_steps >= 1 && num_steps <= kMostSteps, "the number of steps must be 1 to {}, got {}", kMostSteps,
                 num_steps);
}

class NonUniformPolicy : public CachePolicy {
 public:
  NonUniformPolicy(const std::vector<std::int64_t>& full_steps, std::int64_t num_steps, std::string description)
      : full_(static_cast<std::size_t>(num_steps)), description_(std::move(description)) {
    for (const auto step : full_steps)
      if (step >= 0 && step < num_steps) full_[static_cast<std::size_t>(step)] = true;
  }
  bool is_full_step(std::int64_t step_index) const override {
    const auto index = static_cast<std::size_t>(step_index);
    return index >= full_.size() || full_[index];
  }
  std::string describe() const override { return description_; }

 private:
  std::vector<bool> full_;
  std::string description_;
};

template <typename MakeSteps>
std::shared_ptr<const CachePolicy> make_policy(std::int64_t num_steps, const NonUniform& rule, const std::string& name,
                                               const MakeSteps& make_steps) {
  check_non_uniform(rule);
  check_num_steps(num_steps);
  check_argument(rule.center <= num_steps, "center must be 0 to the run's {} steps, got {}", num_steps, rule.center);
  if (rule.cache_interval == 1) return make_uniform_policy(1);
  const auto description =
      fmt::format("{}, pow {:g}, 1 of {} steps in a run of {}", name, rule.pow, rule.cache_interval, num_steps);
  const auto n = count_full_steps(num_steps, rule.cache_interval);
  double pow = rule.pow;
  while (pow > 1) {
    const auto steps = make_steps(n, pow);
    if (std::cmp_equal(steps.size(), n)) return std::make_shared<NonUniformPolicy>(steps, num_steps, description);
    pow -= 0.02;
  }
  throw std::invalid_argument(fmt::format(
      "no power from {:g} down to 1 gives {} different full steps ({}): try a larger pow, another center or "
      "cache_interval",
      rule.pow, n, description));
}

}  // namespace

void check_non_uniform(const NonUniform& rule) {
  check_cache_interval(rule.cache_interval);
  check_argument(rule.pow > 1 && rule.pow <= kLargestPow, "pow must be above 1, to {}, got {}", kLargestPow, rule.pow);
  check_argument(rule.center >= 0, "center must be 0 or above, got {}", rule.center);
}

std::vector<std::int64_t> even_full_steps(std::int64_t num_steps, std::int64_t count) {
  const auto last = std::max(num_steps - 2, count - 1), intervals = std::max<std::int64_t>(1, count - 1);
  std::vector<std::int64_t> steps;
  for (std::int64_t k = 0; k < count; ++k) steps.push_back((2 * k * last + intervals) / (2 * intervals));
  return steps;
}

std::shared_ptr<const CachePolicy> make_even_policy(std::int64_t num_steps, std::int64_t cache_interval) {
  check_cache_interval(cache_interval);
  check_num_steps(num_steps);
  return std::make_shared<NonUniformPolicy>(
      even_full_steps(num_steps, count_full_steps(num_steps, cache_interval)), num_steps,
      fmt::format("evenly to the last step but one, 1 of {} steps in a run of {}", cache_interval, num_steps));
}

std::shared_ptr<const CachePolicy> make_quad_policy(std::int64_t num_steps, std::int64_t cache_interval, double pow) {
  return make_policy(num_steps, {.cache_interval = cache_interval, .pow = pow}, "quad",
                     [&](std::int64_t n, double p) { return quad_steps(num_steps, n, p); });
}

std::shared_ptr<const CachePolicy> make_center_policy(std::int64_t num_steps, std::int64_t cache_interval,
                                                      std::int64_t center, double pow) {
  return make_policy(num_steps, {.cache_interval = cache_interval, .center = center, .pow = pow},
                     fmt::format("center {}", center),
                     [&](std::int64_t n, double p) { return center_steps(num_steps, n, center, p); });
}

}  // namespace deepcache
