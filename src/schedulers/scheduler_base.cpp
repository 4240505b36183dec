#include "schedulers/scheduler_base.hpp"

#include <utility>

#include "error.hpp"

namespace deepcache {
namespace {

/// Whether a batch of `now` follows a batch of one, `before`.
bool go_on_from_one(torch::IntArrayRef now, torch::IntArrayRef before) {
  return before.front() == 1 && now.slice(1) == before.slice(1);
}

}  // namespace

SchedulerBase::SchedulerBase(const NoiseScheduleOptions& noise_schedule)
    : alphas_cumprod_(make_alphas_cumprod(noise_schedule)),
      alphas_(make_alphas(noise_schedule)),
      num_train_timesteps_(noise_schedule.num_train_timesteps) {
  timesteps_ = torch::empty({0}, torch::kInt64);
}

void SchedulerBase::set_timesteps(std::int64_t num_inference_steps) {
  check_argument(num_inference_steps >= 1 && num_inference_steps <= num_train_timesteps_,
                 "the number of inference steps must be from 1 to the {} training timesteps, not {}",
                 num_train_timesteps_, num_inference_steps);
  auto schedule = make_schedule(num_inference_steps);
  timesteps_ = std::move(schedule.timesteps);
  sigmas_ = std::move(schedule.sigmas);
  num_inference_steps_ = num_inference_steps;
  running_ = false;
}

torch::Tensor SchedulerBase::step(const torch::Tensor& model_output, std::int64_t step_index,
                                  const torch::Tensor& sample, const StepOptions& options) {
  check_step(model_output, step_index, sample, options);
  if (!running_ || step_index == 0) {
    check_begin(step_index);
    begin_run();
    running_ = false;
  }
  auto prev_sample = take_step(model_output, step_index, sample, options);
  sizes_ = sample.sizes().vec();
  running_ = true;
  last_step_index_ = step_index;
  return prev_sample;
}

void SchedulerBase::check_step(const torch::Tensor& model_output, std::int64_t step_index, const torch::Tensor& sample,
                               const StepOptions& options) const {
  const auto calls = timesteps_.size(0);
  check_argument(calls > 0, "set_timesteps must be called before step");
  check_argument(step_index >= 0 && step_index < calls, "the step index must be from 0 to {}, not {}", calls - 1,
                 step_index);
  check_argument(!running_ || step_index == 0 || step_index == last_step_index_ + 1,
                 "step {} can't follow step {}: the next is {}, or 0 to begin anew", step_index, last_step_index_,
                 last_step_index_ + 1);
  check_argument(sample.defined() && model_output.defined(), "the sample and the model's output must hold a tensor");
  check_argument(sample.is_floating_point() && sample.dim() > 0,
                 "the sample must be floating point, with a batch dimension; it is {}",
                 c10::str(sample.dtype(), " ", sample.sizes()));
  auto sizes = sample.sizes().vec();
  if (sizes.size() > 1) sizes[1] *= outputs_a_channel();
  check_argument(model_output.sizes() == sizes && model_output.dtype() == sample.dtype() &&
                     model_output.device() == sample.device(),
                 "the model's output must have the shape, dtype and device of the sample{}, {}; it is {}",
                 outputs_a_channel() == 2 ? ", with twice its channels" : "",
                 c10::str(c10::IntArrayRef(sizes), " ", sample.dtype(), " ", sample.device()),
                 c10::str(model_output.sizes(), " ", model_output.dtype(), " ", model_output.device()));
  check_argument(!running_ || step_index == 0 || sample.sizes() == sizes_ || go_on_from_one(sample.sizes(), sizes_),
                 "the sample's shape changed within the run, from {} to {}", c10::str(c10::IntArrayRef(sizes_)),
                 c10::str(sample.sizes()));
  check_argument(options.eta >= 0.0 && options.eta <= 1.0, "eta must be from 0 to 1, not {}", options.eta);
  check_argument(has_ddim_options() || (options.eta == 0.0 && !options.use_clipped_model_output),
                 "{} has neither eta nor use_clipped_model_output", name());
  const StepOptions defaults;
  check_argument(has_churn_options() || (options.s_churn == defaults.s_churn && options.s_tmin == defaults.s_tmin &&
                                         options.s_tmax == defaults.s_tmax && options.s_noise == defaults.s_noise),
                 "{} has neither s_churn nor s_tmin, s_tmax and s_noise", name());
  check_argument(options.s_churn >= 0.0 && options.s_tmin >= 0.0 && options.s_tmax >= 0.0 && options.s_noise >= 0.0,
                 "s_churn, s_tmin, s_tmax and s_noise must be at least 0, not {}, {}, {} and {}", options.s_churn,
                 options.s_tmin, options.s_tmax, options.s_noise);
}

torch::Tensor SchedulerBase::add_noise(const torch::Tensor& original_samples, const torch::Tensor& noise,
                                       const torch::Tensor& timesteps) const {
  return deepcache::add_noise(alphas_cumprod_, original_samples, noise, timesteps);
}

torch::Tensor SchedulerBase::add_noise_between(const torch::Tensor& samples, const torch::Tensor& noise,
                                               std::int64_t from, std::int64_t to) const {
  check_argument(noise_process() == NoiseProcess::kVariancePreserving,
                 "{}'s samples aren't those of DDPM's forward process: it can't noise them by that", name());
  const auto timesteps = alphas_.size(0);
  check_argument(0 <= from && from <= to && to <= timesteps,
                 "noise is added from a timestep to the same or a later one, from 0 to {}, not from {} to {}",
                 timesteps, from, to);
  check_noising(samples, noise, torch::tensor({from}), torch::kInt64);
  const auto alpha_prod = alphas_.slice(0, from, to).prod();
  return alpha_prod.sqrt() * samples + (1 - alpha_prod).sqrt() * noise;
}

torch::Tensor SchedulerBase::indices_for_timesteps(const torch::Tensor& timesteps) const {
  const auto levels = timesteps.cpu();
  std::vector<std::int64_t> indices;
  for (std::int64_t i = 0; i < levels.size(0); ++i) {
    const auto matches = timesteps_.eq(levels[i]).nonzero().flatten();
    check_argument(matches.size(0) > 0, "timestep {} isn't among the run's {}, as {} needs it",
                   levels[i].item<double>(), timesteps_.size(0), name());
    indices.push_back(matches[matches.size(0) > 1 ? 1 : 0].item<std::int64_t>());
  }
  return torch::tensor(indices, torch::kInt64);
}

std::int64_t SchedulerBase::timestep_at(std::int64_t step_index) const {
  return timesteps_.const_data_ptr<std::int64_t>()[step_index];
}

torch::Tensor draw_noise(const StepOptions& options, const torch::Tensor& sample) {
  check_argument(options.noise != nullptr, "this step draws noise: StepOptions::noise must be set");
  return options.noise->randn(sample.sizes(), sample.options());
}

}  // namespace deepcache
