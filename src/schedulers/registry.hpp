#pragma once

#include <memory>

#include "deepcache/scheduler.hpp"
#include "io/config_reader.hpp"

namespace deepcache {

// One maker for each class, defined in the scheduler's own file and listed in scheduler.cpp. Each throws
// std::runtime_error for a setting that isn't supported.

std::unique_ptr<Scheduler> make_ddim(const ConfigReader& config);
std::unique_ptr<Scheduler> make_generalized_ddim(const ConfigReader& config);
std::unique_ptr<Scheduler> make_generalized_ddim_quad(const ConfigReader& config);
std::unique_ptr<Scheduler> make_compvis_ddim(const ConfigReader& config);
std::unique_ptr<Scheduler> make_pndm(const ConfigReader& config);
std::unique_ptr<Scheduler> make_plms(const ConfigReader& config);
std::unique_ptr<Scheduler> make_euler_discrete(const ConfigReader& config);
std::unique_ptr<Scheduler> make_euler_ancestral_discrete(const ConfigReader& config);
std::unique_ptr<Scheduler> make_heun_discrete(const ConfigReader& config);
std::unique_ptr<Scheduler> make_ddpm(const ConfigReader& config);
std::unique_ptr<Scheduler> make_lcm(const ConfigReader& config);
std::unique_ptr<Scheduler> make_dpmsolver_multistep(const ConfigReader& config);
std::unique_ptr<Scheduler> make_dpmsolver_multistep_karras(const ConfigReader& config);
std::unique_ptr<Scheduler> make_dpmsolver_multistep_sde(const ConfigReader& config);
std::unique_ptr<Scheduler> make_dpmsolver_multistep_sde_karras(const ConfigReader& config);
std::unique_ptr<Scheduler> make_unipc_multistep(const ConfigReader& config);

}  // namespace deepcache
