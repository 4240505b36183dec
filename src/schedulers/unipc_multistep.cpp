#include <algorithm>
#include <utility>

#include "error.hpp"
#include "schedulers/multistep_solver.hpp"
#include "schedulers/registry.hpp"

namespace deepcache {
namespace {

/// The function B(h): h itself, or e^h - 1 (section 3.1).
enum class SolverType { kBh1, kBh2 };

struct UniPCMultistepOptions {
  MultistepSolverOptions solver;
  SolverType solver_type = SolverType::kBh2;
  bool predict_x0 = true;                       ///< integrate over the predicted x_0, rather than over the noise
  std::vector<std::int64_t> disable_corrector;  ///< steps whose result stays as it was predicted
};

/// The unified predictor-corrector (Zhao et al., arXiv 2302.04867, Algorithms 1 and 2), after diffusers'
/// `UniPCMultistepScheduler`. A step first corrects the sample that the step before it predicted, with the output that
/// was computed for that sample, then predicts the next.
class UniPCMultistepScheduler final : public MultistepSolver {
 public:
  explicit UniPCMultistepScheduler(const UniPCMultistepOptions& options)
      : MultistepSolver(options.solver), options_(options) {}

  std::string name() const override { return "UniPCMultistepScheduler"; }
  std::unique_ptr<Scheduler> clone() const override { return std::make_unique<UniPCMultistepScheduler>(*this); }

 protected:
  void begin_run() override { history_ = {}; }
  torch::Tensor take_step(const torch::Tensor& model_output, std::int64_t step_index, const torch::Tensor& sample,
                          const StepOptions& options) override;

 private:
  /// What a run has left behind.
  struct History {
    std::vector<torch::Tensor> outputs;  ///< converted, the newest last
    torch::Tensor sample;                ///< that the last step predicted from
    std::int64_t order = 0;              ///< of the last step
  };

  /// What predictor and corrector make alike of the outputs up to the beginning of a step. The end is at
  /// base - scale * (rhos . differences + the corrector's own difference).
  struct Terms {
    torch::Tensor base;         ///< the solution of first order
    torch::Tensor scale;        ///< without dimensions
    torch::Tensor differences;  ///< D_m / r_m, [B, order - 1, ...]; undefined for order 1
    torch::Tensor ratios;       ///< R, [order, order] (Theorem 3.1)
    torch::Tensor weights;      ///< b, [order]
  };

  /// Of the step that begins at `sample`, at call `index`.
  Terms make_terms(const History& history, std::int64_t index, const torch::Tensor& sample, std::int64_t order) const;

  torch::Tensor predict(const History& history, std::int64_t step_index) const;
  torch::Tensor correct(const History& history, std::int64_t step_index, const torch::Tensor& output) const;

  UniPCMultistepOptions options_;
  History history_;
};

/// sum_m rhos_m D_m / r_m.
torch::Tensor weighted_sum(const torch::Tensor& rhos, const torch::Tensor& differences) {
  return torch::einsum("k,bk...->b...", {rhos.to(differences.device(), /*non_blocking=*/true), differences});
}

UniPCMultistepScheduler::Terms UniPCMultistepScheduler::make_terms(const History& history, std::int64_t index,
                                                                   const torch::Tensor& sample,
                                                                   std::int64_t order) const {
  const auto from = level_at(index);
  const auto to = level_at(index + 1);
  const auto h = to.lambda - from.lambda;
  const auto output = [&](std::int64_t back) { return *(history.outputs.end() - 1 - back); };

  std::vector<torch::Tensor> ratios;
  std::vector<torch::Tensor> differences;
  for (std::int64_t m = 1; m < order; ++m) {
    ratios.push_back((level_at(index - m).lambda - from.lambda) / h);
    differences.push_back((output(m) - output(0)) / ratios.back());
  }
  ratios.push_back(torch::ones({}, torch::kFloat32));

  // h phi_k(h) and the factorials of Theorem 3.1; with -h for x_0, as in the appendix on data prediction.
  const auto hh = options_.predict_x0 ? -h : h;
  const auto h_phi_1 = hh.expm1();
  const auto b_h = options_.solver_type == SolverType::kBh1 ? hh : h_phi_1;
  auto h_phi_k = h_phi_1 / hh - 1;
  double factorial = 1;
  std::vector<torch::Tensor> rows;
  std::vector<torch::Tensor> weights;
  for (std::int64_t m = 1; m <= order; ++m) {
    rows.push_back(torch::stack(ratios).pow(m - 1));
    weights.push_back(h_phi_k * factorial / b_h);
    factorial *= static_cast<double>(m + 1);
    h_phi_k = h_phi_k / hh - 1 / factorial;
  }

  Terms terms;
  const auto& noise_scale = options_.predict_x0 ? to.alpha : to.sigma;
  const auto sample_scale = options_.predict_x0 ? to.sigma / from.sigma : to.alpha / from.alpha;
  terms.base = sample_scale * sample - noise_scale * h_phi_1 * output(0);
  terms.scale = noise_scale * b_h;
  if (!differences.empty()) terms.differences = torch::stack(differences, 1);
  terms.ratios = torch::stack(rows);
  terms.weights = torch::stack(weights);
  return terms;
}

/// UniP (Algorithm 2): from the sample at call `step_index` to its end; the rhos solve Theorem 3.1's first order - 1
/// equations.
torch::Tensor UniPCMultistepScheduler::predict(const History& history, std::int64_t step_index) const {
  if (stays(step_index)) return history.sample.clone();
  const auto terms = make_terms(history, step_index, history.sample, history.order);
  if (history.order == 1) return terms.base;
  const auto rows = history.order - 1;
  // 1/2, the limit for small h, does for order 2 without a loss of order (section 3.1).
  const auto rhos = history.order == 2 ? torch::full({1}, 0.5, torch::kFloat32)
                                       : at::linalg_solve(terms.ratios.slice(0, 0, rows).slice(1, 0, rows),
                                                          terms.weights.slice(0, 0, rows));
  return terms.base - terms.scale * weighted_sum(rhos.to(history.sample.scalar_type()), terms.differences);
}

/// UniC (Algorithm 1): the sample at call `step_index` once more from the one before it, now with `output` at its end
/// too.
torch::Tensor UniPCMultistepScheduler::correct(const History& history, std::int64_t step_index,
                                               const torch::Tensor& output) const {
  const auto terms = make_terms(history, step_index - 1, history.sample, history.order);
  const auto rhos =
      (history.order == 1 ? torch::full({1}, 0.5, torch::kFloat32) : at::linalg_solve(terms.ratios, terms.weights))
          .to(history.sample.scalar_type());
  auto correction = rhos[-1] * (output - history.outputs.back());
  if (history.order > 1) correction = weighted_sum(rhos.slice(0, 0, -1), terms.differences) + correction;
  return terms.base - terms.scale * correction;
}

torch::Tensor UniPCMultistepScheduler::take_step(const torch::Tensor& model_output, std::int64_t step_index,
                                                 const torch::Tensor& sample, const StepOptions& /*options*/) {
  const auto& solver = options_.solver;
  const auto [alpha, sigma, lambda] = level_at(step_index);
  // Thresholding is for x_0: where the noise is predicted, diffusers has none.
  const auto output =
      options_.predict_x0
          ? clip_sample(predict_original_sample(solver.prediction_type, model_output, sample, alpha, sigma),
                        solver.clipping)
          : predict_epsilon(solver.prediction_type, model_output, sample, alpha, sigma);
  const bool corrected = history_.sample.defined() && std::ranges::find(options_.disable_corrector, step_index - 1) ==
                                                          options_.disable_corrector.end();

  History history;
  history.sample = corrected ? correct(history_, step_index, output) : sample;
  history.outputs = append(history_.outputs, output);
  history.order = std::min(solver.solver_order, static_cast<std::int64_t>(history.outputs.size()));
  if (solver.lower_order_final) history.order = std::min(history.order, timesteps().size(0) - step_index);
  auto prev_sample = predict(history, step_index);
  history_ = std::move(history);
  return prev_sample;
}

}  // namespace

std::unique_ptr<Scheduler> make_unipc_multistep(const ConfigReader& config) {
  UniPCMultistepOptions options;
  options.solver = read_multistep_solver(config);
  // diffusers rounds the timesteps of Karras' sigmas, and cuts the fractions of the others off.
  options.solver.whole_timesteps = options.solver.sigma_spacing == SigmaSpacing::kKarras;
  options.solver.repeats_last_sigma = true;
  // As in diffusers, the names of DPM-Solver and DEIS stand for what is usual here.
  options.solver_type = config.choice("solver_type", options.solver_type,
                                      {{"bh1", SolverType::kBh1},
                                       {"bh2", SolverType::kBh2},
                                       {"midpoint", SolverType::kBh2},
                                       {"heun", SolverType::kBh2},
                                       {"logrho", SolverType::kBh2}});
  options.predict_x0 = config.boolean("predict_x0", options.predict_x0);
  options.disable_corrector = config.integers("disable_corrector");
  check_data(options.predict_x0 || options.solver.prediction_type != PredictionType::kFlow,
             "the setting \"predict_x0\" must be true for \"flow_prediction\"");
  config.require_null("solver_p", "other predictors aren't supported");
  // With a last sigma of 0 diffusers computes infinity times 0 for these.
  const bool has_limit = options.predict_x0 && options.solver_type == SolverType::kBh2 &&
                         (options.solver.lower_order_final || options.solver.solver_order == 1);
  check_data(options.solver.final_sigmas == FinalSigmas::kSigmaMin || has_limit,
             "the setting \"final_sigmas_type\" must be \"sigma_min\" unless \"predict_x0\" is true, "
             "\"solver_type\" is \"bh2\", and \"lower_order_final\" is true or \"solver_order\" 1");
  return std::make_unique<UniPCMultistepScheduler>(options);
}

}  // namespace deepcache
