#include <utility>

#include "error.hpp"
#include "schedulers/prediction.hpp"
#include "schedulers/registry.hpp"
#include "schedulers/scheduler_base.hpp"
#include "schedulers/timestep_spacing.hpp"

namespace deepcache {
namespace {

constexpr std::size_t kMultistepOrder = 4;                      // of the Runge-Kutta and of the linear multistep method
constexpr std::int64_t kRungeKuttaCalls = 3 * kMultistepOrder;  // three steps of four calls fill the multistep history

struct PNDMOptions {
  NoiseScheduleOptions noise_schedule;
  PredictionType prediction_type = PredictionType::kEpsilon;
  TimestepSpacing timestep_spacing = TimestepSpacing::kLeading;
  std::int64_t steps_offset = 0;
  bool skip_prk_steps = false;    ///< PLMS: begin with multistep formulas of lower order instead of Runge-Kutta steps
  bool set_alpha_to_one = false;  ///< alpha_bar beyond the last timestep is 1, not alpha_bar_0
};

/// Pseudo numerical methods for diffusion models (Liu et al., arXiv 2202.09778, Algorithm 2), after diffusers'
/// `PNDMScheduler`. What happens depends on the number of calls in the run so far, not on the step index.
class PNDMScheduler final : public SchedulerBase {
 public:
  explicit PNDMScheduler(const PNDMOptions& options)
      : SchedulerBase(options.noise_schedule),
        options_(options),
        final_alpha_cumprod_(options.set_alpha_to_one ? torch::ones({}, torch::kFloat32) : alphas_cumprod_[0]) {}

  std::string name() const override { return "PNDMScheduler"; }
  std::unique_ptr<Scheduler> clone() const override { return std::make_unique<PNDMScheduler>(*this); }
  void check_begin(std::int64_t step_index) const override;

 protected:
  Schedule make_schedule(std::int64_t num_inference_steps) const override;
  void begin_run() override { history_ = {}; }
  torch::Tensor take_step(const torch::Tensor& model_output, std::int64_t step_index, const torch::Tensor& sample,
                          const StepOptions& options) override;

 private:
  /// What a run has left behind.
  struct History {
    std::int64_t calls = 0;
    std::vector<torch::Tensor> ets;  ///< noise predicted at the whole steps, the newest last, at most kMultistepOrder
    torch::Tensor cur_sample;  ///< the sample that the running Runge-Kutta step, or the first PLMS step, began with
    torch::Tensor
        cur_model_output;  ///< weighted sum of the running Runge-Kutta step's outputs; undefined before its first
  };

  torch::Tensor step_prk(History& history, const torch::Tensor& model_output, std::int64_t step_index,
                         const torch::Tensor& sample) const;
  torch::Tensor step_plms(History& history, const torch::Tensor& model_output, std::int64_t step_index,
                          const torch::Tensor& sample) const;
  torch::Tensor get_prev_sample(const torch::Tensor& sample, std::int64_t timestep, std::int64_t prev_timestep,
                                const torch::Tensor& model_output) const;

  PNDMOptions options_;
  torch::Tensor final_alpha_cumprod_;
  History history_;
};

Schedule PNDMScheduler::make_schedule(std::int64_t num_inference_steps) const {
  const auto spaced =
      space_timesteps(options_.timestep_spacing, num_train_timesteps(), num_inference_steps, options_.steps_offset);
  auto calls = spaced;
  if (options_.skip_prk_steps) {
    // The first step is taken twice: once to look ahead, then with the mean of both outputs.
    if (calls.size() > 1) calls.insert(calls.begin() + 1, calls[1]);
    return {.timesteps = torch::tensor(calls, torch::kInt64)};
  }
  check_argument(spaced.size() >= kMultistepOrder,
                 "PNDMScheduler needs at least {} inference steps for its Runge-Kutta steps, not {}; fewer need "
                 "skip_prk_steps",
                 kMultistepOrder, spaced.size());
  const std::int64_t half_stride = num_train_timesteps() / num_inference_steps / 2;
  calls.clear();
  for (std::size_t i = 0; i + 1 < kMultistepOrder; ++i) {
    const std::int64_t middle = spaced[i + 1] + half_stride;
    calls.insert(calls.end(), {spaced[i], middle, middle, spaced[i + 1]});
  }
  calls.insert(calls.end(), spaced.begin() + kMultistepOrder - 1, spaced.end());
  return {.timesteps = torch::tensor(calls, torch::kInt64)};
}

void PNDMScheduler::check_begin(std::int64_t step_index) const {
  check_argument(step_index == 0 || options_.skip_prk_steps,
                 "PNDMScheduler's Runge-Kutta steps can't begin at step {}, only at 0; other beginnings need "
                 "skip_prk_steps",
                 step_index);
}

torch::Tensor PNDMScheduler::take_step(const torch::Tensor& model_output, std::int64_t step_index,
                                       const torch::Tensor& sample, const StepOptions& /*options*/) {
  auto history = history_;
  const bool prk = !options_.skip_prk_steps && history.calls < kRungeKuttaCalls;
  auto prev_sample =
      prk ? step_prk(history, model_output, step_index, sample) : step_plms(history, model_output, step_index, sample);
  ++history.calls;
  history_ = std::move(history);
  return prev_sample;
}

/// One of the four calls of a pseudo Runge-Kutta step (eq. 13): weights 1/6, 1/3, 1/3, 1/6.
torch::Tensor PNDMScheduler::step_prk(History& history, const torch::Tensor& model_output, std::int64_t step_index,
                                      const torch::Tensor& sample) const {
  const auto half_stride = history.calls % 2 == 0 ? timestep_stride() / 2 : 0;
  const auto prev_timestep = timestep_at(step_index) - half_stride;
  const auto timestep = timestep_at(history.calls / 4 * 4);  // where the Runge-Kutta step began
  auto output = model_output;
  switch (history.calls % 4) {
    case 0:
      history.cur_model_output = 1.0 / 6 * model_output;
      history.ets.push_back(model_output);
      history.cur_sample = sample;
      break;
    case 3:
      output = history.cur_model_output + 1.0 / 6 * model_output;
      break;
    default:
      history.cur_model_output = history.cur_model_output + 1.0 / 3 * model_output;
  }
  return get_prev_sample(history.cur_sample, timestep, prev_timestep, output);
}

/// A pseudo linear multistep step (eq. 12), which is Adams-Bashforth's weights on up to four outputs.
torch::Tensor PNDMScheduler::step_plms(History& history, const torch::Tensor& model_output, std::int64_t step_index,
                                       const torch::Tensor& sample) const {
  auto timestep = timestep_at(step_index);
  auto prev_timestep = timestep - timestep_stride();
  auto& ets = history.ets;
  if (history.calls == 1) {
    // Back to where the run began, now with the mean of the outputs at both ends of the step.
    prev_timestep = timestep;
    timestep += timestep_stride();
    return get_prev_sample(std::exchange(history.cur_sample, {}), timestep, prev_timestep,
                           (model_output + ets.back()) / 2);
  }
  if (ets.size() == kMultistepOrder) ets.erase(ets.begin());
  ets.push_back(model_output);

  const auto et = [&](std::size_t back) { return ets[ets.size() - back]; };
  auto output = model_output;
  switch (ets.size()) {
    case 1:
      history.cur_sample = sample;
      break;
    case 2:
      output = (3 * et(1) - et(2)) / 2;
      break;
    case 3:
      output = (23 * et(1) - 16 * et(2) + 5 * et(3)) / 12;
      break;
    default:
      output = 1.0 / 24 * (55 * et(1) - 59 * et(2) + 37 * et(3) - 9 * et(4));
  }
  return get_prev_sample(sample, timestep, prev_timestep, output);
}

/// The transfer from x_t to x_{t - delta} (eq. 9), with (alpha_{t - delta} - alpha_t) / (sqrt(alpha_t) (sqrt(alpha_{t -
/// delta}) + sqrt(alpha_t))) + 1 written as sqrt(alpha_{t - delta} / alpha_t).
torch::Tensor PNDMScheduler::get_prev_sample(const torch::Tensor& sample, std::int64_t timestep,
                                             std::int64_t prev_timestep, const torch::Tensor& model_output) const {
  const auto alpha_prod = alphas_cumprod_[timestep];
  const auto alpha_prod_prev = prev_timestep >= 0 ? alphas_cumprod_[prev_timestep] : final_alpha_cumprod_;
  const auto beta_prod = 1 - alpha_prod;
  const auto beta_prod_prev = 1 - alpha_prod_prev;

  // Velocities become noise only here, after they were averaged (arXiv 2202.00512, appendix D).
  const auto epsilon =
      predict_epsilon(options_.prediction_type, model_output, sample, alpha_prod.pow(0.5), beta_prod.pow(0.5));
  const auto sample_coeff = (alpha_prod_prev / alpha_prod).pow(0.5);
  const auto denominator = alpha_prod * beta_prod_prev.pow(0.5) + (alpha_prod * beta_prod * alpha_prod_prev).pow(0.5);
  return sample_coeff * sample - (alpha_prod_prev - alpha_prod) * epsilon / denominator;
}

PNDMOptions read_options(const ConfigReader& config) {
  PNDMOptions options;
  options.noise_schedule = read_noise_schedule(config);
  options.prediction_type =
      config.choice("prediction_type", options.prediction_type,
                    {{"epsilon", PredictionType::kEpsilon}, {"v_prediction", PredictionType::kVPrediction}});
  options.timestep_spacing = read_timestep_spacing(config, options.timestep_spacing);
  options.steps_offset = read_steps_offset(config);
  options.skip_prk_steps = config.boolean("skip_prk_steps", options.skip_prk_steps);
  options.set_alpha_to_one = config.boolean("set_alpha_to_one", options.set_alpha_to_one);
  return options;
}

}  // namespace

std::unique_ptr<Scheduler> make_pndm(const ConfigReader& config) {
  return std::make_unique<PNDMScheduler>(read_options(config));
}

std::unique_ptr<Scheduler> make_plms(const ConfigReader& config) {
  auto options = read_options(config);
  options.skip_prk_steps = true;
  return std::make_unique<PNDMScheduler>(options);
}

}  // namespace deepcache
