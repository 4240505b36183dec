#include <algorithm>
#include <utility>

#include "error.hpp"
#include "schedulers/multistep_solver.hpp"
#include "schedulers/registry.hpp"

namespace deepcache {
namespace {

/// Which integral is discretised: that over the predicted noise (DPM-Solver, arXiv 2206.00927) or that over the
/// predicted x_0 (DPM-Solver++, arXiv 2211.01095), of the ODE or of the SDE.
enum class AlgorithmType { kDpmSolver, kDpmSolverPlusPlus, kSdeDpmSolver, kSdeDpmSolverPlusPlus };

enum class SolverType { kMidpoint, kHeun };

struct DPMSolverMultistepOptions {
  MultistepSolverOptions solver;
  AlgorithmType algorithm_type = AlgorithmType::kDpmSolverPlusPlus;
  SolverType solver_type = SolverType::kMidpoint;  ///< of the second order's formula
  bool euler_at_final = false;                     ///< the last step is of first order
};

/// DPM-Solver and DPM-Solver++, multistep, after diffusers' `DPMSolverMultistepScheduler`.
class DPMSolverMultistepScheduler final : public MultistepSolver {
 public:
  explicit DPMSolverMultistepScheduler(const DPMSolverMultistepOptions& options)
      : MultistepSolver(options.solver), options_(options) {}

  std::string name() const override { return "DPMSolverMultistepScheduler"; }
  std::unique_ptr<Scheduler> clone() const override { return std::make_unique<DPMSolverMultistepScheduler>(*this); }
  bool adds_noise(const StepOptions& /*options*/) const override { return is_stochastic(); }

 protected:
  void begin_run() override { outputs_.clear(); }
  torch::Tensor take_step(const torch::Tensor& model_output, std::int64_t step_index, const torch::Tensor& sample,
                          const StepOptions& options) override;

 private:
  /// x_t = sample * x_s + d0 * D_0 + d1 * D_1 + d2 * D_2 + noise * z, where D_k is the k-th difference of the outputs.
  struct Coefficients {
    torch::Tensor sample;
    torch::Tensor d0;
    torch::Tensor d1;
    torch::Tensor d2;
    torch::Tensor noise;  ///< undefined for the ODE
  };

  bool is_stochastic() const {
    return options_.algorithm_type == AlgorithmType::kSdeDpmSolver ||
           options_.algorithm_type == AlgorithmType::kSdeDpmSolverPlusPlus;
  }

  /// The noise, or x_0, as the algorithm integrates it.
  torch::Tensor convert_model_output(const torch::Tensor& model_output, std::int64_t step_index,
                                     const torch::Tensor& sample) const;

  /// How many outputs the step uses.
  std::int64_t order_at(std::int64_t step_index, std::size_t outputs) const;

  Coefficients coefficients(const Level& from, const Level& to, std::int64_t order) const;

  torch::Tensor update(const std::vector<torch::Tensor>& outputs, std::int64_t step_index, const torch::Tensor& sample,
                       const torch::Tensor& noise) const;

  DPMSolverMultistepOptions options_;
  std::vector<torch::Tensor> outputs_;  ///< of the run so far, converted, the newest last
};

torch::Tensor DPMSolverMultistepScheduler::convert_model_output(const torch::Tensor& model_output,
                                                                std::int64_t step_index,
                                                                const torch::Tensor& sample) const {
  const auto& solver = options_.solver;
  const auto [alpha, sigma, lambda] = level_at(step_index);
  if (options_.algorithm_type == AlgorithmType::kDpmSolverPlusPlus ||
      options_.algorithm_type == AlgorithmType::kSdeDpmSolverPlusPlus)
    return clip_sample(predict_original_sample(solver.prediction_type, model_output, sample, alpha, sigma),
                       solver.clipping);
  auto epsilon = predict_epsilon(solver.prediction_type, model_output, sample, alpha, sigma);
  if (!solver.clipping.thresholding) return epsilon;
  const auto original_sample = predict_original_sample(PredictionType::kEpsilon, epsilon, sample, alpha, sigma);
  return predict_epsilon(PredictionType::kSample, clip_sample(original_sample, solver.clipping), sample, alpha, sigma);
}

std::int64_t DPMSolverMultistepScheduler::order_at(std::int64_t step_index, std::size_t outputs) const {
  constexpr std::int64_t kFewCalls = 15;  // with fewer, a lower order at the end is more stable
  const auto calls = timesteps().size(0);
  const auto left = calls - step_index;
  const auto order = std::min(options_.solver.solver_order, static_cast<std::int64_t>(outputs));
  const bool lower = options_.solver.lower_order_final && calls < kFewCalls;
  // Only the first order's formula has a limit for sigma 0.
  if (left == 1 && (options_.euler_at_final || lower || options_.solver.final_sigmas == FinalSigmas::kZero)) return 1;
  return left == 2 && lower ? std::min<std::int64_t>(order, 2) : order;
}

/// With h = lambda_t - lambda_s, those of the first order are DPM-Solver's eq. 3.7 (arXiv 2206.00927), and for x_0
/// Algorithm 2's first step (arXiv 2211.01095); its section 6 has the SDE's. Those of D_1 and D_2 are the next
/// integrals of the exponential times a power (arXiv 2206.00927, appendix B).
DPMSolverMultistepScheduler::Coefficients DPMSolverMultistepScheduler::coefficients(const Level& from, const Level& to,
                                                                                    std::int64_t order) const {
  const auto h = to.lambda - from.lambda;
  Coefficients c;
  switch (options_.algorithm_type) {
    case AlgorithmType::kDpmSolverPlusPlus: {
      const auto phi = (-h).exp() - 1.0;
      c = {.sample = to.sigma / from.sigma,
           .d0 = -(to.alpha * phi),
           .d1 = to.alpha * (phi / h + 1.0),
           .d2 = -(to.alpha * ((phi + h) / h.pow(2) - 0.5)),
           .noise = {}};
      break;
    }
    case AlgorithmType::kDpmSolver: {
      const auto phi = h.exp() - 1.0;
      c = {.sample = to.alpha / from.alpha,
           .d0 = -(to.sigma * phi),
           .d1 = -(to.sigma * (phi / h - 1.0)),
           .d2 = -(to.sigma * ((phi - h) / h.pow(2) - 0.5)),
           .noise = {}};
      break;
    }
    case AlgorithmType::kSdeDpmSolverPlusPlus: {
      const auto phi = 1.0 - (-2.0 * h).exp();
      c = {.sample = to.sigma / from.sigma * (-h).exp(),
           .d0 = to.alpha * phi,
           .d1 = to.alpha * (phi / (-2.0 * h) + 1.0),
           .d2 = to.alpha * ((phi - 2.0 * h) / (2.0 * h).pow(2) - 0.5),
           .noise = to.sigma * phi.sqrt()};
      break;
    }
    case AlgorithmType::kSdeDpmSolver: {
      const auto phi = h.exp() - 1.0;
      c = {.sample = to.alpha / from.alpha,
           .d0 = -2.0 * (to.sigma * phi),
           .d1 = -2.0 * (to.sigma * (phi / h - 1.0)),
           .d2 = {},  // diffusers has none
           .noise = to.sigma * ((2 * h).exp() - 1.0).sqrt()};
      break;
    }
  }
  // Half of D_0's, which is near D_1's for small h: Algorithm 2 has it so.
  if (order == 2 && options_.solver_type == SolverType::kMidpoint) c.d1 = 0.5 * c.d0;
  return c;
}

/// D_1 and D_2 are taken from m_0, this step's output, and m_1 and m_2, those before it (arXiv 2211.01095, Algorithm 2
/// for two outputs).
torch::Tensor DPMSolverMultistepScheduler::update(const std::vector<torch::Tensor>& outputs, std::int64_t step_index,
                                                  const torch::Tensor& sample, const torch::Tensor& noise) const {
  const auto order = order_at(step_index, outputs.size());
  const auto from = level_at(step_index);
  const auto to = level_at(step_index + 1);
  const auto c = coefficients(from, to, order);
  const auto m = [&](std::size_t back) { return outputs[outputs.size() - 1 - back]; };

  auto prev_sample = c.sample * sample + c.d0 * m(0);
  if (order > 1) {
    const auto h = to.lambda - from.lambda;
    const auto before = level_at(step_index - 1);
    const auto r0 = (from.lambda - before.lambda) / h;
    const auto d1_0 = (1.0 / r0) * (m(0) - m(1));
    if (order == 2) {
      prev_sample = prev_sample + c.d1 * d1_0;
    } else {
      const auto r1 = (before.lambda - level_at(step_index - 2).lambda) / h;
      const auto d1_1 = (1.0 / r1) * (m(1) - m(2));
      const auto d1 = d1_0 + (r0 / (r0 + r1)) * (d1_0 - d1_1);
      const auto d2 = (1.0 / (r0 + r1)) * (d1_0 - d1_1);
      prev_sample = prev_sample + c.d1 * d1 + c.d2 * d2;
    }
  }
  return noise.defined() ? prev_sample + c.noise * noise : prev_sample;
}

torch::Tensor DPMSolverMultistepScheduler::take_step(const torch::Tensor& model_output, std::int64_t step_index,
                                                     const torch::Tensor& sample, const StepOptions& options) {
  auto outputs = append(outputs_, convert_model_output(model_output, step_index, sample));
  const auto precise_sample = sample.to(torch::kFloat32);  // float64 too, as in diffusers
  const auto noise = is_stochastic() ? draw_noise(options, precise_sample) : torch::Tensor();
  auto prev_sample =
      stays(step_index) ? sample.clone() : update(outputs, step_index, precise_sample, noise).to(sample.scalar_type());
  outputs_ = std::move(outputs);
  return prev_sample;
}

/// Settings that a short name implies, whatever the configuration has.
struct Variant {
  bool karras = false;
  bool sde = false;
};

DPMSolverMultistepOptions read_options(const ConfigReader& config, const Variant& variant) {
  DPMSolverMultistepOptions options;
  options.solver = read_multistep_solver(config);
  // As in diffusers, the names of DEIS and UniPC stand for what is usual here.
  options.algorithm_type = config.choice("algorithm_type", options.algorithm_type,
                                         {{"dpmsolver", AlgorithmType::kDpmSolver},
                                          {"dpmsolver++", AlgorithmType::kDpmSolverPlusPlus},
                                          {"sde-dpmsolver", AlgorithmType::kSdeDpmSolver},
                                          {"sde-dpmsolver++", AlgorithmType::kSdeDpmSolverPlusPlus},
                                          {"deis", AlgorithmType::kDpmSolverPlusPlus}});
  options.solver_type = config.choice("solver_type", options.solver_type,
                                      {{"midpoint", SolverType::kMidpoint},
                                       {"heun", SolverType::kHeun},
                                       {"logrho", SolverType::kMidpoint},
                                       {"bh1", SolverType::kMidpoint},
                                       {"bh2", SolverType::kMidpoint}});
  options.euler_at_final = config.boolean("euler_at_final", options.euler_at_final);
  options.solver.lambda_min_clipped =
      config.number("lambda_min_clipped", options.solver.lambda_min_clipped, options.solver.lambda_min_clipped,
                    std::numeric_limits<double>::max());
  // Of DDPM's settings, which change nothing here; models that learn variances aren't supported.
  if (config.holds("variance_type"))
    config.choice("variance_type", true,
                  {{"fixed_small", true}, {"fixed_small_log", true}, {"fixed_large", true}, {"fixed_large_log", true}});
  // Where several are set, diffusers takes Karras' sigmas before Lu's, and Lu's before the others.
  const bool lu = config.boolean("use_lu_lambdas", false);
  if (variant.karras) options.solver.sigma_spacing = SigmaSpacing::kKarras;
  if (lu && options.solver.sigma_spacing != SigmaSpacing::kKarras) {
    options.solver.sigma_spacing = SigmaSpacing::kLu;
    options.solver.sigma_min.reset();  // these keep to the training sigmas
    options.solver.sigma_max.reset();
  }
  if (variant.sde) options.algorithm_type = AlgorithmType::kSdeDpmSolverPlusPlus;
  // diffusers rounds the timesteps of these two only, and not for the cosine schedule.
  const bool rounds =
      options.solver.sigma_spacing == SigmaSpacing::kKarras || options.solver.sigma_spacing == SigmaSpacing::kLu;
  options.solver.whole_timesteps =
      rounds && options.solver.noise_schedule.beta_schedule != BetaSchedule::kSquaredcosCapV2;
  return options;
}

std::unique_ptr<Scheduler> make_variant(const ConfigReader& config, const Variant& variant) {
  const auto options = read_options(config, variant);
  const bool predicts_x0 = options.algorithm_type == AlgorithmType::kDpmSolverPlusPlus ||
                           options.algorithm_type == AlgorithmType::kSdeDpmSolverPlusPlus;
  check_data(predicts_x0 || options.solver.prediction_type != PredictionType::kFlow,
             "the setting \"algorithm_type\" must be \"dpmsolver++\" or \"sde-dpmsolver++\" for \"flow_prediction\"");
  check_data(predicts_x0 || options.solver.final_sigmas == FinalSigmas::kSigmaMin,
             "the setting \"final_sigmas_type\" must be \"sigma_min\" where \"algorithm_type\" is "
             "\"dpmsolver\" or \"sde-dpmsolver\"");
  // diffusers has no formula for it.
  check_data(options.algorithm_type != AlgorithmType::kSdeDpmSolver || options.solver.solver_order < 3,
             "the setting \"solver_order\" is 3; where \"algorithm_type\" is \"sde-dpmsolver\" it must be 1 "
             "or 2");
  return std::make_unique<DPMSolverMultistepScheduler>(options);
}

}  // namespace

std::unique_ptr<Scheduler> make_dpmsolver_multistep(const ConfigReader& config) {
  return make_variant(config, {});
}

std::unique_ptr<Scheduler> make_dpmsolver_multistep_karras(const ConfigReader& config) {
  return make_variant(config, {.karras = true});
}

std::unique_ptr<Scheduler> make_dpmsolver_multistep_sde(const ConfigReader& config) {
  return make_variant(config, {.sde = true});
}

std::unique_ptr<Scheduler> make_dpmsolver_multistep_sde_karras(const ConfigReader& config) {
  return make_variant(config, {.karras = true, .sde = true});
}

}  // namespace deepcache
