#include "deepcache/helper.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <map>
#include <optional>
#include <span>
#include <tuple>

#include "core/cache_params.hpp"
#include "core/feature_history.hpp"
#include "core/recorded_steps.hpp"
#include "core/step_timer.hpp"
#include "core/torchscript.hpp"
#include "core/unet_impl.hpp"
#include "core/weighted_sum.hpp"
#include "error.hpp"
#include "log.hpp"

namespace deepcache {
namespace {

constexpr std::int64_t kFewCalls = 10;

/// Shape, dtype and device of every tensor among some inputs.
using Signature = std::vector<std::tuple<std::vector<std::int64_t>, torch::Dtype, torch::Device>>;

Signature signature_of(const std::vector<c10::IValue>& inputs) {
  Signature signature;
  for (const auto& input : inputs)
    map_tensors(input, [&](const torch::Tensor& tensor) {
      signature.emplace_back(tensor.sizes().vec(), tensor.scalar_type(), tensor.device());
      return tensor;
    });
  return signature;
}

/// How far a sample has moved from another: |sample - other| / |sample|, by norm.
double distance(const torch::Tensor& sample, const torch::Tensor& other) {
  double change = 0, norm = 0;
  for (const auto& of_item : compare_forecast(sample, std::span(&other, 1), std::array{1.0})) {
    change += of_item.change_change;
    norm += of_item.truth_truth;
  }
  return std::sqrt(change / norm);
}

}  // namespace

struct Helper::Impl : UNetHook {
  struct Context {
    explicit Context(FeatureHistory history) : features(std::move(history)) {}
    void forget() {
      features.clear();
      output = {};
    }

    std::int64_t calls = 0;
    std::optional<std::int64_t> first_position;  // in the schedule; StepCounting::kTimesteps counts from it
    FeatureHistory features;                     // empty: nothing is cached
    Signature signature;                         // of the inputs that the features were computed from
    std::int64_t latest_full = 0;                // call
    torch::Tensor sample;                        // of that call, where SkipMode::kAdaptive needs it
    c10::IValue output;                          // of that call, where kWholeOutput needs to know its structure
    Conditioning conditioning;                   // what steps of the context leave to the next
  };
  struct Step {
    std::int64_t index;
    std::string context;
    bool full;
    double forecast_error = std::numeric_limits<double>::quiet_NaN();
    StepTimer timer;
  };

  explicit Impl(UNet network) : unet(std::move(network)) {
    if (const auto& impl = *unet.impl_; impl.recorder) recorded.emplace(impl.backend, impl.recorder);
  }
  ~Impl() override { disable(); }

  void disable() {
    if (unet.impl_->hook == this) unet.impl_->hook = nullptr;
  }
  bool enabled() const { return unet.impl_->hook == this; }
  const Backend& backend() const { return *unet.impl_->backend; }

  void reset() {
    contexts.clear();
    steps.clear();
    timesteps.clear();
    traits = {};
    policy = choose_policy(params, {});
  }

  void begin_run(std::span<const double> schedule, const RunTraits& run) override {
    if (caches(params)) judge(schedule, run);
    check_schedule(params, schedule, run);
    auto chosen = choose_policy(params, schedule);
    auto steps_before = run.continues ? std::move(steps) : std::vector<Step>();
    reset();
    steps = std::move(steps_before);
    traits = run;
    policy = std::move(chosen);
    timesteps.assign(schedule.begin(), schedule.end());
  }

  /// Of runs in which caching is known to change pictures more (docs/quality.md).
  void judge(std::span<const double> schedule, const RunTraits& run) {
    const auto size = run.schedule_size != 0 ? run.schedule_size : static_cast<std::int64_t>(schedule.size());
    std::string concern;
    if (run.adds_noise) concern = "the scheduler adds noise in its steps, which no feature of an earlier step knows";
    if (size > 1 && size < kFewCalls)
      concern = fmt::format("in a run of {} calls of the UNet each is far from the one before", size);
    if (concern.empty()) return;
    concern += ": caching changes such pictures more";
    check_argument(!params.strict, "{}", concern);
    if (!std::exchange(warned, true)) log(LogLevel::kWarning, concern);
  }

  c10::IValue forward(std::vector<c10::IValue> inputs) override {
    try {
      return step(std::move(inputs));
    } catch (...) {
      reset();
      throw;
    }
  }

  c10::IValue step(std::vector<c10::IValue> inputs) {
    backend().check_inputs(inputs);
    check_argument(policy != nullptr,
                   "SkipMode::kEven, kQuad, kCenter and kTimesteps, full_first and full_last need the run's number of "
                   "steps: begin "
                   "each run by unet.begin_run(timesteps), not by reset()");
    check_argument(!is_adaptive(params) || inputs.at(0).isTensor(),
                   "SkipMode::kAdaptive needs the sample, a tensor, as the UNet's first input");
    FeatureHistory empty(forecast_order(), policy->num_forecast_weights(), traits.guided, std::ssize(timesteps));
    auto& state = contexts.try_emplace(context, std::move(empty)).first->second;
    auto signature = signature_of(inputs);
    if (state.signature != signature) state.forget();
    const auto index = step_index(state, inputs);
    const bool full = state.features.empty() || policy->is_full_step(index) || has_drifted(state, inputs);
    steps.push_back({.index = index, .context = context, .full = full, .timer = StepTimer(backend().device())});
    const auto sample = full && is_adaptive(params) ? inputs[0].toTensor().clone() : torch::Tensor();
    c10::IValue output;
    if (full) {
      if (latest_signature != signature) {
        latest_signature = signature;
        latest_inputs = shapes_of(inputs);
        profile.reset();
      }
      if (!is_feature_needed(index)) {
        state.forget();
        output = run(std::move(inputs), state);
      } else {
        auto result = run_full(std::move(inputs), state);
        steps.back().forecast_error =
            state.features.add(state.calls, std::move(result.feature), policy->forecast_shares(index));
        state.latest_full = state.calls;
        state.sample = sample;
        state.signature = std::move(signature);
        output = std::move(result.output);
      }
    } else {
      const auto weights = policy->forecast_weights(index);
      const auto feature = weights.empty() ? state.features.forecast_terms(state.calls, policy->forecast_shares(index))
                                           : state.features.weighted_terms(weights);
      output = run_cached(std::move(inputs), feature, state);
    }
    steps.back().timer.stop();
    ++state.calls;
    return output;
  }

  c10::IValue run(std::vector<c10::IValue> inputs, Context& state) {
    return recorded ? recorded->run(inputs, branch) : backend().run(std::move(inputs), state.conditioning);
  }

  Backend::FullResult run_full(std::vector<c10::IValue> inputs, Context& state) {
    if (branch == kWholeOutput) {
      auto output = run(std::move(inputs), state);
      std::vector<torch::Tensor> tensors;
      state.output = map_tensors(output, [&](const torch::Tensor& tensor) {
        return tensors.emplace_back(tensor.clone());  // the caller may write into its own
      });
      check_argument(tensors.size() == 1, "a UNet's whole output is cached where it is one tensor, got {} of them",
                     tensors.size());
      return {std::move(output), tensors[0]};
    }
    return recorded ? recorded->run_full(inputs, branch)
                    : backend().run_full(std::move(inputs), state.conditioning, branch);
  }

  c10::IValue run_cached(std::vector<c10::IValue> inputs, const WeightedTerms& terms, Context& state) {
    auto& features = state.features;
    if (branch != kWholeOutput && recorded)
      return recorded->run_shallow(inputs, terms, {features.depth(), features.of_halves()}, branch);
    const auto feature = features.sum(terms);
    if (branch == kWholeOutput) return map_tensors(state.output, [&](const torch::Tensor&) { return feature.clone(); });
    return backend().run_shallow(std::move(inputs), state.conditioning, feature, branch);
  }

  /// What a full and a cached step cost at the shapes of the latest full one.
  const BranchProfile& current_profile() {
    if (profile) return *profile;
    profile = backend().profile(latest_inputs, {std::max<std::int64_t>(branch, 0)}).front();
    if (branch == kWholeOutput) profile->cached_step = {};
    return *profile;
  }

  /// Where one can't be made for that run, the next one's timesteps decide.
  std::shared_ptr<const CachePolicy> policy_of_latest_run(const CacheParams& wanted) const {
    try {
      return choose_policy(wanted, timesteps);
    } catch (const std::invalid_argument&) {
      return choose_policy(wanted, {});
    }
  }

  std::int64_t forecast_order() const {
    // Guidance multiplies what the noise does to the halves' difference: there the latest feature is nearer.
    return traits.guided && traits.adds_noise ? 0 : params.forecast_order;
  }

  /// Whether a later step would use the feature of this full one.
  bool is_feature_needed(std::int64_t index) const {
    const bool needs_only_latest = forecast_order() == 0 && policy->num_forecast_weights() <= 1;
    const bool next_is_known = params.step_counting == StepCounting::kCalls;  // the other way repeats and skips
    return caches(params) && !(needs_only_latest && next_is_known && policy->is_full_step(index + 1));
  }

  /// SkipMode::kAdaptive: whether the sample has moved too far from that of the last full step, or that is too long
  /// ago; half as long after the first full step, from which alone nothing can be forecast.
  bool has_drifted(const Context& state, const std::vector<c10::IValue>& inputs) const {
    if (!is_adaptive(params)) return false;
    const auto longest = state.features.num_added() == 1 ? (params.max_interval + 1) / 2 : params.max_interval;
    return state.calls - state.latest_full >= longest ||
           distance(inputs[0].toTensor(), state.sample) > params.tolerance;
  }

  std::int64_t step_index(Context& state, const std::vector<c10::IValue>& inputs) const {
    if (params.step_counting == StepCounting::kCalls) return state.calls;
    check_argument(!timesteps.empty(), "StepCounting::kTimesteps needs the schedule: call unet.begin_run(timesteps)");
    check_argument(inputs.size() > 1 && inputs[1].isTensor() && inputs[1].toTensor().numel() >= 1,
                   "StepCounting::kTimesteps needs the timestep as the UNet's second input");
    const auto timestep = inputs[1].toTensor().flatten()[0].item<double>();
    const auto found = std::ranges::find(timesteps, timestep);
    check_argument(found != timesteps.end(), "timestep {} isn't in the schedule given to begin_run", timestep);
    const auto position = found - timesteps.begin();
    if (!state.first_position) state.first_position = position;  // image-to-image begins inside the schedule
    return position - *state.first_position;
  }

  UNet unet;
  std::optional<RecordedSteps> recorded;  // by all contexts and runs, until the helper is disabled
  CacheParams params;
  std::int64_t branch = 0;
  std::shared_ptr<const CachePolicy> policy = make_uniform_policy(1);  // nullptr: it waits for begin_run
  std::string context;
  std::map<std::string, Context> contexts;
  std::vector<double> timesteps;
  RunTraits traits;  // of the run, if begin_run told
  std::vector<Step> steps;
  Signature latest_signature;              // of the latest full step
  std::vector<c10::IValue> latest_inputs;  // shapes only
  std::optional<BranchProfile> profile;    // at those, made when first asked for
  bool warned = false;                     // of a run in which caching changes pictures more
};

Helper::Helper(UNet unet) : impl_(std::make_unique<Impl>(std::move(unet))) {}
Helper::Helper(const std::filesystem::path& file, torch::Device device, std::optional<torch::Dtype> dtype)
    : Helper(UNet::load(file, device, dtype)) {}
Helper::Helper(const torch::jit::Module& module) : Helper(UNet(module)) {}
Helper::~Helper() = default;
Helper::Helper(Helper&&) noexcept = default;
Helper& Helper::operator=(Helper&&) noexcept = default;

void Helper::set_params(const CacheParams& params) {
  check_params(params);
  auto policy = impl_->policy_of_latest_run(params);
  const auto branch = find_branch(params, impl_->backend().branch_names());
  if (caches(params) && branch != kWholeOutput) impl_->backend().prepare_branch(branch);
  impl_->branch = branch;
  impl_->policy = std::move(policy);
  impl_->params = params;
  impl_->profile.reset();
  impl_->contexts.clear();
  impl_->steps.clear();
}

const CacheParams& Helper::params() const {
  return impl_->params;
}

void Helper::enable() {
  auto& hook = impl_->unet.impl_->hook;
  if (hook == impl_.get()) return;
  check_argument(hook == nullptr, "another helper is enabled on this UNet; disable it first, or use share_weights()");
  impl_->reset();
  hook = impl_.get();
}

void Helper::disable() {
  if (!enabled()) return;
  impl_->disable();
  impl_->contexts.clear();
  if (impl_->recorded) impl_->recorded->clear();
}

bool Helper::enabled() const {
  return impl_->enabled();
}

void Helper::reset() {
  impl_->reset();
}

void Helper::set_context(std::string context) {
  impl_->context = std::move(context);
}

c10::IValue Helper::forward(std::vector<c10::IValue> inputs) {
  return impl_->unet.forward(std::move(inputs));
}

const UNet& Helper::unet() const {
  return impl_->unet;
}

CacheStats Helper::stats() const {
  CacheStats stats;
  stats.cache_branch_id = impl_->branch;
  if (impl_->policy) stats.policy = impl_->policy->describe();
  for (const auto& step : impl_->steps) {
    stats.steps.push_back({.step_index = step.index,
                           .context = step.context,
                           .full = step.full,
                           .milliseconds = step.timer.milliseconds(),
                           .forecast_error = step.forecast_error});
    ++(step.full ? stats.full_steps : stats.cached_steps);
  }
  for (const auto& [name, context] : impl_->contexts) stats.cache_bytes += context.features.nbytes();
  if (!stats.steps.empty()) {
    const auto& profile = impl_->current_profile();
    stats.full_step = profile.full_step;
    stats.cached_step = profile.cached_step;
    stats.macs_saved = stats.cached_steps * (profile.full_step.total() - profile.cached_step.total());
  }
  return stats;
}

}  // namespace deepcache
