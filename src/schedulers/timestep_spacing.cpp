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
std::vector<std::int64_t> linspace_timesteps(std::int64_t train, std::int64_t steps) {
  const auto last = static_cast<double>(train - 1);
  const double stride = last / static_cast<double>(steps - 1);
  std::vector<std::int64_t> timesteps{0};
  for (std::int64_t i = 1; i < steps; ++i)
    timesteps.push_back(round_half_even(i == steps - 1 ? last : static_cast<double>(i) * stride));
  std::ranges::reverse(timesteps);
  return timesteps;
}

/// np.arange(train, 0, -train / steps) takes its stride from its first two values. It ends one value too late where
/// that stride rounds to less than train / steps (61 of 1000); the extra timestep, -1, has no place in the schedule.
std::vector<std::int64_t> trailing_timesteps(std::int64_t train, std::int64_t steps) {
  const auto first = static_cast<double>(train);
  const double second = first - first / static_cast<double>(steps);
  const double stride = second - first;
  std::vector<std::int64_t> timesteps;
  for (std::int64_t i = 0; i < steps; ++i)
    timesteps.push_back(round_half_even(first + static_cast<double>(i) * stride) - 1);
  return timesteps;
}

std::vector<std::int64_t> leading_timesteps(std::int64_t train, std::int64_t steps, std::int64_t offset) {
  const std::int64_t stride = train / steps;
  std::vector<std::int64_t> timesteps;
  for (std::int64_t i = steps - 1; i >= 0; --i) timesteps.push_back(i * stride + offset);
  check_argument(timesteps.front() < train,
                 "{} inference steps begin at timestep {} with the scheduler's steps_offset of {}; the last of the {} "
                 "training timesteps is {}",
                 steps, timesteps.front(), offset, train, train - 1);
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

std::vector<std::int64_t> space_timesteps(TimestepSpacing spacing, std::int64_t num_train_timesteps,
                                          std::int64_t num_inference_steps, std::int64_t steps_offset) {
  switch (spacing) {
    case TimestepSpacing::kLeading:
      return leading_timesteps(num_train_timesteps, num_inference_steps, steps_offset);
    case TimestepSpacing::kTrailing:
      return trailing_timesteps(num_train_timesteps, num_inference_steps);
    case TimestepSpacing::kLinspace:
      return linspace_timesteps(num_train_timesteps, num_inference_steps);
  }
  throw std::invalid_argument("unknown timestep spacing");
}

}  // namespace deepcache
