#pragma once

#include <cstdint>
#include <vector>

#include "schedulers/config_reader.hpp"

namespace deepcache {

/// How the inference steps spread over the training timesteps (arXiv 2305.08891, Table 2).
enum class TimestepSpacing { kLeading, kTrailing, kLinspace };

TimestepSpacing read_timestep_spacing(const ConfigReader& config, TimestepSpacing missing);

/// Added to the timesteps of leading spacing.
std::int64_t read_steps_offset(const ConfigReader& config, std::int64_t missing = 0);

/// `num_inference_steps` whole timesteps in 0 .. num_train_timesteps - 1, descending.
/// @throws std::invalid_argument if `steps_offset` moves one out of that range.
std::vector<std::int64_t> space_timesteps(TimestepSpacing spacing, std::int64_t num_train_timesteps,
                                          std::int64_t num_inference_steps, std::int64_t steps_offset);

}  // namespace deepcache
