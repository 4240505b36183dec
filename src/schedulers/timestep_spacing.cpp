#include "schedulers/timestep_spacing.hpp"

#include <algorithm>
#include <cmath>

#include "error.hpp"

namespace deepcache {
namespace {

/// Half to even, as np.round: nearbyint in the rounding mode that every program starts with.
std::int64_t round_half_even(double value) {
  return static_cast<std::int64_t>(std::nearbyint(value));
}

/// Both float spacings repeat NumPy's own arithmetic: where i * 1000 / n should end in exactly .5, its rounding errors
/// decide which way the timestep goes.
std::vector<double> fractional_linspace_timesteps(std::int64_t train, std::int64_t steps) {
  auto timesteps = linspace(0, static_cast<double>(train - 1), steps);
  std::ranges::reverse(timesteps);
  return timesteps;
}

std::vector<std::int64_t> linspace_timesteps(std::int64_t train, std::int64_t steps) {
  std::vector<std::int64_t> timesteps;
  for (const double timestep : fractional_linspace_timesteps(train, steps))
    timesteps.push_back(round_half_even(timestep));
  return timesteps;
}

/// np.arange(end, 0, -train / steps) takes its stride from its first two values. It ends one value too late where that
/// stride rounds to less than train / steps (61 of 1000), or where less than a half is left below `end`; the extra
/// timestep, -1, has no place in the schedule.
std::vector<std::int64_t> trailing_timesteps(std::int64_t end, std::int64_t train, std::int64_t steps) {
  const auto first = static_cast<double>(end);
  const double width = static_cast<double>(train) / static_cast<double>(steps);
  const double stride = first - width - first;
  const auto count = static_cast<std::int64_t>(std::ceil(first / width));
  std::vector<std::int64_t> timesteps;
  for (std::int64_t i = 0; i < count; ++i)
    timesteps.push_back(round_half_even(first + static_cast<double>(i) * stride) - 1);
  if (timesteps.back() < 0) timesteps.pop_back();
  return timesteps;
}

/// The `points` lowest multiples of `stride`.
std::vector<std::int64_t> leading_timesteps(std::int64_t stride, std::int64_t points, std::int64_t train,
                                            std::int64_t offset) {
  std::vector<std::int64_t> timesteps;
  for (std::int64_t i = points - 1; i >= 0; --i) timesteps.push_back(i * stride + offset);
  check_argument(
      timesteps.front() < train,
      "the run would begin at timestep {} with the scheduler's steps_offset of {}; the last of the {} training "
      "timesteps is {}",
      timesteps.front(), offset, train, train - 1);
  return timesteps;
}

}  // namespace

TimestepSpacing read_timestep_spacing(const ConfigReader& config, TimestepSpacing missing) {
  return config.choice("timestep_spacing", missing,
                       {{"leading", TimestepSpacing::kLeading},
                        {"trailing", TimestepSpacing::kTrailing},
                        {"linspace", TimestepSpacing::kLinspace}});
}

std::int64_t read_steps_offset(const ConfigReader& config, std::int64_t missing) {
  constexpr std::int64_t kMost = 1'000'000;
  return config.integer("steps_offset", missing, 0, kMost);
}

std::vector<double> linspace(double start, double stop, std::int64_t count) {
  const double stride = (stop - start) / static_cast<double>(count - 1);
  std::vector<double> values{start};
  for (std::int64_t i = 1; i < count; ++i)
    values.push_back(i == count - 1 ? stop : static_cast<double>(i) * stride + start);
  return values;
}

std::vector<std::int64_t> space_timesteps(TimestepSpacing spacing, std::int64_t num_train_timesteps,
                                          std::int64_t num_inference_steps, std::int64_t steps_offset) {
  switch (spacing) {
    case TimestepSpacing::kLeading:
      return leading_timesteps(num_train_timesteps / num_inference_steps, num_inference_steps, num_train_timesteps,
                               steps_offset);
    case TimestepSpacing::kTrailing:
      return trailing_timesteps(num_train_timesteps, num_train_timesteps, num_inference_steps);
    case TimestepSpacing::kLinspace:
      return linspace_timesteps(num_train_timesteps, num_inference_steps);
  }
  throw std::invalid_argument("unknown timestep spacing");
}

std::vector<std::int64_t> space_solver_timesteps(TimestepSpacing spacing, std::int64_t num_train_timesteps,
                                                 std::int64_t end_timestep, std::int64_t num_inference_steps,
                                                 std::int64_t steps_offset) {
  if (spacing == TimestepSpacing::kTrailing)
    return trailing_timesteps(end_timestep, num_train_timesteps, num_inference_steps);
  const auto points = num_inference_steps + 1;
  auto timesteps = spacing == TimestepSpacing::kLinspace
                       ? linspace_timesteps(end_timestep, points)
                       : leading_timesteps(end_timestep / points, points, num_train_timesteps, steps_offset);
  timesteps.pop_back();
  return timesteps;
}

std::vector<float> space_float_timesteps(TimestepSpacing spacing, std::int64_t num_train_timesteps,
                                         std::int64_t num_inference_steps, std::int64_t steps_offset) {
  const auto to_floats = [](const auto& values) {
    std::vector<float> floats;
    for (const auto value : values) floats.push_back(static_cast<float>(value));
    return floats;
  };
  if (spacing == TimestepSpacing::kLinspace)
    return to_floats(fractional_linspace_timesteps(num_train_timesteps, num_inference_steps));
  return to_floats(space_timesteps(spacing, num_train_timesteps, num_inference_steps, steps_offset));
}

}  // namespace deepcache
