#include "deepcache/scheduler.hpp"

#include <algorithm>
#include <array>
#include <nlohmann/json.hpp>

#include "error.hpp"
#include "io/files.hpp"
#include "schedulers/registry.hpp"

namespace deepcache {
namespace {

struct SchedulerClass {
  std::string_view name;
  std::unique_ptr<Scheduler> (*make)(const ConfigReader& config);
};

/// Class names as diffusers spells them, and short names; the last two aren't in diffusers.
constexpr std::array kClasses{
    SchedulerClass{"DDIMScheduler", make_ddim},
    SchedulerClass{"PNDMScheduler", make_pndm},
    SchedulerClass{"DDPMScheduler", make_ddpm},
    SchedulerClass{"LCMScheduler", make_lcm},
    SchedulerClass{"DPMSolverMultistepScheduler", make_dpmsolver_multistep},
    SchedulerClass{"UniPCMultistepScheduler", make_unipc_multistep},
    SchedulerClass{"EulerDiscreteScheduler", make_euler_discrete},
    SchedulerClass{"EulerAncestralDiscreteScheduler", make_euler_ancestral_discrete},
    SchedulerClass{"HeunDiscreteScheduler", make_heun_discrete},
    SchedulerClass{"CompVisDDIMScheduler", make_compvis_ddim},
    SchedulerClass{"ddim", make_ddim},
    SchedulerClass{"plms", make_plms},
    SchedulerClass{"ddpm", make_ddpm},
    SchedulerClass{"lcm", make_lcm},
    SchedulerClass{"dpm++_2m", make_dpmsolver_multistep},
    SchedulerClass{"dpm++_2m_karras", make_dpmsolver_multistep_karras},
    SchedulerClass{"dpm++_2m_sde", make_dpmsolver_multistep_sde},
    SchedulerClass{"dpm++_2m_sde_karras", make_dpmsolver_multistep_sde_karras},
    SchedulerClass{"unipc", make_unipc_multistep},
    SchedulerClass{"euler", make_euler_discrete},
    SchedulerClass{"euler_a", make_euler_ancestral_discrete},
    SchedulerClass{"heun", make_heun_discrete},
    SchedulerClass{"generalized_ddim", make_generalized_ddim},
    SchedulerClass{"generalized_ddim_quad", make_generalized_ddim_quad},
    SchedulerClass{"compvis_ddim", make_compvis_ddim},
};

const SchedulerClass* find_class(std::string_view name) {
  const auto* const found = std::ranges::find(kClasses, name, &SchedulerClass::name);
  return found == kClasses.end() ? nullptr : found;
}

std::string known_names() {
  std::string names;
  for (const auto& entry : kClasses) names += fmt::format("{}{}", names.empty() ? "" : ", ", entry.name);
  return names;
}

/// The text with the names quoted that Python's json module writes for numbers that JSON doesn't have: a saved
/// DPMSolverMultistepScheduler holds a -Infinity.
std::string quote_non_finite(std::string_view json) {
  std::string quoted;
  quoted.reserve(json.size());
  bool in_text = false;
  for (std::size_t i = 0; i < json.size(); ++i) {
    if (json[i] == '"') in_text = !in_text;
    std::string_view name;
    for (const std::string_view known : {"-Infinity", "Infinity", "NaN"})
      if (name.empty() && !in_text && json.substr(i).starts_with(known)) name = known;
    if (!name.empty()) {
      quoted += fmt::format("\"{}\"", name);
      i += name.size() - 1;
      continue;
    }
    quoted += json[i];
    if (in_text && json[i] == '\\' && i + 1 < json.size()) quoted += json[++i];
  }
  return quoted;
}

/// The class that the caller names, or else the file.
const SchedulerClass& choose_class(const nlohmann::json& config, std::string_view class_name) {
  const auto* chosen = find_class(class_name);
  check_argument(class_name.empty() || chosen != nullptr, "there is no scheduler \"{}\"; there are {}", class_name,
                 known_names());
  if (chosen != nullptr) return *chosen;
  const auto named = config.is_object() ? config.find("_class_name") : config.end();
  check_data(named != config.end(), "the scheduler's configuration names no \"_class_name\"");
  chosen = named->is_string() ? find_class(named->get<std::string>()) : nullptr;
  check_data(chosen != nullptr, "the scheduler's \"_class_name\" is {}; it must be one of {}", named->dump(),
             known_names());
  return *chosen;
}

}  // namespace

std::unique_ptr<Scheduler> Scheduler::from_config(const std::filesystem::path& file, std::string_view class_name) {
  const auto text = read_file(file);
  try {
    return from_json(text, class_name);
  } catch (const std::runtime_error& error) {
    throw std::runtime_error(fmt::format("{}: {}", file.string(), error.what()));
  }
}

std::unique_ptr<Scheduler> Scheduler::from_json(std::string_view json, std::string_view class_name) {
  nlohmann::json config;
  try {
    config = nlohmann::json::parse(quote_non_finite(json));
  } catch (const nlohmann::json::exception& error) {
    throw std::runtime_error(fmt::format("the scheduler's configuration isn't valid JSON: {}", error.what()));
  }
  const auto& chosen = choose_class(config, class_name);
  auto scheduler = chosen.make(ConfigReader(config));
  scheduler->configured_name_ = std::ranges::find(kClasses, chosen.make, &SchedulerClass::make)->name;
  return scheduler;
}

torch::Tensor Scheduler::timestep(std::int64_t step_index) const {
  check_argument(step_index >= 0 && step_index < timesteps_.size(0), "the step index must be from 0 to {}, not {}",
                 timesteps_.size(0) - 1, step_index);
  return timesteps_.slice(0, step_index, step_index + 1);
}

torch::Tensor Scheduler::scale_model_input(const torch::Tensor& sample, std::int64_t step_index) const {
  timestep(step_index);  // in range
  return sample;
}

torch::Tensor Scheduler::add_noise_at(const torch::Tensor& original_samples, const torch::Tensor& noise,
                                      std::int64_t step_index) const {
  return add_noise(original_samples, noise, timestep(step_index));
}

}  // namespace deepcache
