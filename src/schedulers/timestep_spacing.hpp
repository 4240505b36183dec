#pragma once

#include <cstdint>
#include <vector>

#include "io/config_reader.hpp"

namespace deepcache {

/// How the inference steps spread over the training timesteps (arXiv 2305.08891, Table 2).
enum class TimestepSpacing { kLeading, kTrailing, kLinspace };

TimestepSpacing read_timestep_spacing(const ConfigReader& config, TimestepSpacing missing);

/// Added to the timesteps of leading spacing.
std::int64_t read_steps_offset(const ConfigReader& config, std::int64_t missing = 0);

/// `count` values from `start` to `stop`, as np.linspace.
std::vector<double> linspace(double start, double stop, std::int64_t count);

/// `num_inference_steps` whole timesteps in 0 .. num_train_timesteps - 1, descending.
/// @throws std::invalid_argument if `steps_offset` moves one out of that range.
std::vector<std::int64_t> space_timesteps(TimestepSpacing spacing, std::int64_t num_train_timesteps,
                                          std::int64_t num_inference_steps, std::int64_t steps_offset);

/// The same for DPM-Solver and UniPC, which end their runs beyond timestep 0, below `end_timestep`: linspace and
/// leading place one timestep more, and leave the last out. Trailing steps are as wide as they are without
/// `end_timestep`, so that there can be fewer of them.
std::vector<std::int64_t> space_solver_timesteps(TimestepSpacing spacing, std::int64_t num_train_timesteps,
                                                 std::int64_t end_timestep, std::int64_t num_inference_steps,
                                                 std::int64_t steps_offset);

/// The same as `space_timesteps`, but linspace keeps its fractions.
std::vector<float> space_float_timesteps(TimestepSpacing spacing, std::int64_t num_train_timesteps,
                                         std::int64_t num_inference_steps, std::int64_t steps_offset);

}  // namespace deepcache
