#include <limits>
#include <utility>

#include "error.hpp"
#include "schedulers/registry.hpp"
#include "schedulers/sample_clipping.hpp"
#include "schedulers/sigma_scheduler.hpp"

namespace deepcache {
namespace {

constexpr std::int64_t kOrder = 2;

/// Heun's method of second order (Karras et al., arXiv 2206.00364, Algorithm 1), after diffusers'
/// `HeunDiscreteScheduler`. An inference step is an Euler step, then the same step again with the mean of the slopes at
/// both its ends; the last one, which leads to sigma 0, is only the first.
class HeunDiscreteScheduler final : public SigmaScheduler {
 public:
  HeunDiscreteScheduler(const SigmaOptions& options, const SampleClipping& clipping)
      : SigmaScheduler(options), clipping_(clipping) {}

  std::string name() const override { return "HeunDiscreteScheduler"; }
  std::unique_ptr<Scheduler> clone() const override { return std::make_unique<HeunDiscreteScheduler>(*this); }
  std::int64_t order() const override { return kOrder; }
  void check_begin(std::int64_t step_index) const override;

 protected:
  Schedule make_schedule(std::int64_t num_inference_steps) const override;
  void begin_run() override { history_ = {}; }
  torch::Tensor take_step(const torch::Tensor& model_output, std::int64_t step_index, const torch::Tensor& sample,
                          const StepOptions& options) override;

 private:
  /// What the first half of an inference step leaves for the second.
  struct History {
    torch::Tensor derivative;
    torch::Tensor sample;
  };

  SampleClipping clipping_;
  History history_;
};

/// The second call of a step has the timestep and sigma that the step leads to, the first call of the next has them
/// again.
Schedule HeunDiscreteScheduler::make_schedule(std::int64_t num_inference_steps) const {
  const auto [timesteps, sigmas] = SigmaScheduler::make_schedule(num_inference_steps);
  return {torch::cat({timesteps.slice(0, 0, 1), timesteps.slice(0, 1).repeat_interleave(kOrder)}),
          torch::cat({sigmas.slice(0, 0, 1), sigmas.slice(0, 1, -1).repeat_interleave(kOrder), sigmas.slice(0, -1)})};
}

void HeunDiscreteScheduler::check_begin(std::int64_t step_index) const {
  check_argument(step_index % kOrder == 0,
                 "HeunDiscreteScheduler can't begin at step {}, the second half of an inference step; even ones begin "
                 "one",
                 step_index);
}

torch::Tensor HeunDiscreteScheduler::take_step(const torch::Tensor& model_output, std::int64_t step_index,
                                               const torch::Tensor& sample, const StepOptions& /*options*/) {
  const auto sigma = sigmas()[step_index];
  const auto original_sample = clip_sample(predict_original_sample(model_output, sample, sigma), clipping_);
  auto derivative = (sample - original_sample) / sigma;
  if (step_index % kOrder == 0) {
    auto prev_sample = sample + derivative * (sigmas()[step_index + 1] - sigma);
    history_ = {std::move(derivative), sample};
    return prev_sample;
  }
  const auto mean = (history_.derivative + derivative) / 2;
  auto prev_sample = history_.sample + mean * (sigma - sigmas()[step_index - 1]);
  history_ = {};
  return prev_sample;
}

}  // namespace

std::unique_ptr<Scheduler> make_heun_discrete(const ConfigReader& config) {
  constexpr double kMost = std::numeric_limits<double>::max();
  SigmaOptions defaults;
  defaults.noise_schedule.beta_start = 0.00085;
  defaults.noise_schedule.beta_end = 0.012;
  auto options = read_sigma_options(config, defaults, {{"exp", BetaSchedule::kExp}});
  options.prediction_type = read_prediction_type(config);
  // sigma_min and sigma_max are settings of other classes, which diffusers heeds in this one too.
  read_sigma_spacing(config, options);
  SampleClipping clipping;
  clipping.clip_sample = config.boolean("clip_sample", clipping.clip_sample);
  clipping.clip_sample_range = config.number("clip_sample_range", clipping.clip_sample_range, 0.0, kMost);
  return std::make_unique<HeunDiscreteScheduler>(options, clipping);
}

}  // namespace deepcache
