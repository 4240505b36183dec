#include "deepcache/compare.hpp"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <nlohmann/json.hpp>
#include <ranges>
#include <utility>

#include "core/non_uniform_policy.hpp"
#include "error.hpp"
#include "pipelines/describe_request.hpp"
#include "pipelines/likeness.hpp"
#include "pipelines/step_cost.hpp"

namespace deepcache {
namespace {

constexpr std::size_t kShownPrompts = 6;

void check(const CompareRequest& request) {
  check_argument(!request.prompts.empty(), "there must be one prompt or more, got none");
  check_argument(request.params.decode, "pictures are compared: decode must be true");
  check_argument(request.cache_branch_id != kWholeOutput,
                 "cache_branch_id must be a branch here, 0 or above, got {}: the whole output is run in any case",
                 kWholeOutput);
  check_argument(request.forecast_order >= 1, "forecast_order must be 1 or 2 here, got {}: 0 is run in any case",
                 request.forecast_order);
  for (const auto interval : request.intervals)
    check_argument(interval >= 2, "intervals must be 2 or above, got {}", interval);
}

/// Uncached runs of fewer steps that cost as much as the intervals do.
std::vector<Way> fewer_steps(const CompareRequest& request, const StepCost& cost) {
  std::vector<Way> ways;
  for (const auto interval : request.intervals) {
    const auto full_steps = count_full_steps(cost.num_steps, interval);
    const auto steps = static_cast<double>(request.params.num_inference_steps) / cost.speedup(full_steps);
    const auto count = std::max<std::int64_t>(1, std::llround(steps));
    if (count < request.params.num_inference_steps && (ways.empty() || ways.back().num_inference_steps != count))
      ways.push_back({.name = fmt::format("{} steps", count), .kind = "fewer steps", .num_inference_steps = count});
  }
  return ways;
}

/// Whether the policy differs in a run from full steps every so many.
bool is_new(const CachePolicy& policy, std::int64_t interval, std::int64_t num_steps) {
  const auto steps = std::views::iota(std::int64_t{0}, num_steps);
  return std::ranges::any_of(steps, [&](auto step) { return policy.is_full_step(step) != (step % interval == 0); });
}

/// All others.
std::vector<Way> make_ways(const CompareRequest& request, const StepCost& cost) {
  std::vector<Way> ways{{.name = "full", .kind = "full"}};
  const auto add = [&](const std::string& kind, const std::string& settings, CacheParams cache) {
    if (cache.cache_branch_id != kWholeOutput) cache.cache_branch_id = request.cache_branch_id;
    ways.push_back({.name = kind + ", " + settings, .kind = kind, .cache = std::move(cache)});
  };
  for (const auto interval : request.intervals)
    add("DeepCache", fmt::format("every {}", interval), {.cache_interval = interval, .forecast_order = 0});
  for (const auto interval : request.intervals)
    add("forecast", fmt::format("every {}", interval),
        {.cache_interval = interval, .forecast_order = request.forecast_order});
  for (const auto interval : request.intervals)
    if (is_new(*make_even_policy(cost.num_steps, interval), interval, cost.num_steps))
      add("even", fmt::format("1 of {}", interval),
          {.cache_interval = interval, .forecast_order = request.forecast_order, .skip_mode = SkipMode::kEven});
  for (const auto interval : request.intervals)
    add("output", fmt::format("1 of {}", interval),
        {.cache_interval = interval,
         .cache_branch_id = kWholeOutput,
         .forecast_order = request.forecast_order,
         .skip_mode = SkipMode::kEven});
  for (const auto tolerance : request.tolerances)
    add("adaptive", fmt::format("{:g}", tolerance),
        {.forecast_order = request.forecast_order, .skip_mode = SkipMode::kAdaptive, .tolerance = tolerance});
  ways.insert(ways.end(), request.further.begin(), request.further.end());
  return ways;
}

StableDiffusionParams params_of(const Way& way, StableDiffusionParams params) {
  if (way.num_inference_steps != 0) params.num_inference_steps = way.num_inference_steps;
  return params;
}

struct MeasuredRun {
  StableDiffusionResult result;
  double milliseconds = 0;
  CacheStats stats;
  std::vector<torch::Tensor> latents;  ///< after each step
};

double relative_error(const torch::Tensor& actual, const torch::Tensor& expected) {
  const auto truth = expected.to(torch::kDouble);
  return (actual.to(torch::kDouble) - truth).norm().item<double>() / truth.norm().item<double>();
}

double macs_of(const CacheStats& stats) {
  return static_cast<double>(stats.full_steps * stats.full_step.total() +
                             stats.cached_steps * stats.cached_step.total());
}

WayScore score(const MeasuredRun& run, const MeasuredRun& full) {
  const auto& pictures = run.result.images;
  return {.milliseconds = run.milliseconds,
          .speedup = full.milliseconds / run.milliseconds,
          .macs_speedup = macs_of(full.stats) / macs_of(run.stats),
          .psnr_db = finite_psnr(pictures, full.result.images),
          .ssim = ssim_or_nan(pictures, full.result.images),
          .latent_error = relative_error(run.result.latents, full.result.latents),
          .full_steps = static_cast<double>(run.stats.full_steps),
          .cached_steps = static_cast<double>(run.stats.cached_steps),
          .cache_bytes = run.stats.cache_bytes};
}

/// What is kept of a run.
struct Scored {
  WayScore score;
  std::string policy;
  std::int64_t branch_id = 0;
  std::vector<double> step_errors;
  torch::Tensor picture;
};

Scored compare_runs(const MeasuredRun& run, const MeasuredRun& full) {
  Scored scored{.score = score(run, full),
                .policy = run.stats.policy,
                .branch_id = run.stats.cache_branch_id,
                .step_errors = {},
                .picture = run.result.images[0].clone()};
  if (run.latents.size() == full.latents.size())
    for (std::size_t i = 0; i < run.latents.size(); ++i)
      scored.step_errors.push_back(relative_error(run.latents[i], full.latents[i]));
  return scored;
}

double median(std::vector<double> values) {
  std::ranges::sort(values);
  const auto middle = values.size() / 2;
  return values.size() % 2 == 1 ? values[middle] : (values[middle - 1] + values[middle]) / 2;
}

WayScore summarize(const std::vector<WayScore>& scores) {
  const auto all = [&](double WayScore::*member) {
    std::vector<double> values;
    for (const auto& score : scores) values.push_back(score.*member);
    return values;
  };
  const auto mean = [&](double WayScore::*member) {
    double sum = 0;
    for (const auto value : all(member)) sum += value;
    return sum / static_cast<double>(scores.size());
  };
  WayScore summary{.milliseconds = median(all(&WayScore::milliseconds)),
                   .speedup = median(all(&WayScore::speedup)),
                   .macs_speedup = mean(&WayScore::macs_speedup),
                   .psnr_db = mean(&WayScore::psnr_db),
                   .ssim = mean(&WayScore::ssim),
                   .latent_error = mean(&WayScore::latent_error),
                   .full_steps = mean(&WayScore::full_steps),
                   .cached_steps = mean(&WayScore::cached_steps)};
  for (const auto& score : scores) summary.cache_bytes = std::max(summary.cache_bytes, score.cache_bytes);
  return summary;
}

class Comparer {
 public:
  Comparer(StableDiffusionPipeline& pipe, const CompareRequest& request)
      : pipe_(pipe), request_(request), helper_(pipe) {
    check(request);
    for (const auto& prompt : request.prompts) pipe.validate({prompt}, request.params);
    helper_.enable();
    const auto cost = measure_cost(pipe, helper_, request.prompts[0], request.params, request.cache_branch_id);
    for (const auto& way : make_ways(request, cost)) {
      check_way(way, cost.num_steps);
      comparison_.ways.push_back({.way = way});
    }
    for (const auto& way : fewer_steps(request, cost))
      if (can_run(way)) comparison_.ways.push_back({.way = way});
    describe();
  }

  Comparison compare() {
    warm_up();
    for (const auto& prompt : request_.prompts)
      if (!run_all(prompt)) break;
    const auto count = static_cast<double>(comparison_.prompts.size());
    if (count == 0) return {};
    for (auto& result : comparison_.ways) {
      result.score = summarize(result.prompts);
      for (auto& error : result.step_errors) error /= count;
    }
    return std::move(comparison_);
  }

 private:
  /// Not every scheduler can make any number of steps.
  bool can_run(const Way& way) const {
    try {
      pipe_.validate({request_.prompts[0]}, params_of(way, request_.params));
      return true;
    } catch (const std::invalid_argument&) {
      return false;
    }
  }

  void check_way(const Way& way, std::int64_t num_steps) {
    try {
      pipe_.validate({request_.prompts[0]}, params_of(way, request_.params));
      helper_.set_params(way.cache);
      const auto made_for = way.cache.num_steps;
      check_argument(made_for == 0 || made_for == num_steps || way.num_inference_steps != 0,
                     "the full steps are for runs of {} calls of the UNet, got a run of {}", made_for, num_steps);
    } catch (const std::invalid_argument& error) {
      throw std::invalid_argument(fmt::format("{}: {}", way.name, error.what()));
    }
  }

  void describe() {
    auto json =
        describe_request({.model = request_.model, .prompts = request_.prompts, .params = request_.params}, pipe_, "");
    json.erase("prompt");
    json["prompts"] = request_.prompts;
    comparison_.request = json.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
  }

  /// The VAE; `measure_cost` has called the other networks.
  void warm_up() {
    auto params = request_.params;
    params.callback = [](const PipelineStep& step) { return step.step_index < 1; };
    helper_.set_params({});
    pipe_.decode(pipe_(request_.prompts[0], params).latents, params.vae);
  }

  MeasuredRun run(const Way& way, const std::string& prompt) {
    if (request_.on_run) request_.on_run(num_runs_, std::ssize(comparison_.ways) * std::ssize(request_.prompts), way);
    ++num_runs_;
    helper_.set_params(way.cache);
    MeasuredRun run;
    auto params = params_of(way, request_.params);
    params.callback = [&](const PipelineStep& step) {
      run.latents.push_back(step.latents.clone());
      return !request_.params.callback || request_.params.callback(step);
    };
    const auto start = std::chrono::steady_clock::now();
    run.result = pipe_(prompt, params);
    const std::chrono::duration<double, std::milli> elapsed = std::chrono::steady_clock::now() - start;
    run.milliseconds = elapsed.count();
    run.stats = helper_.stats();
    return run;
  }

  /// Whether none was cancelled.
  bool run_all(const std::string& prompt) {
    MeasuredRun full;
    std::vector<Scored> scored;
    for (const auto& result : comparison_.ways) {
      auto latest = run(result.way, prompt);
      if (latest.result.cancelled) return false;
      if (scored.empty()) full = latest;
      scored.push_back(compare_runs(latest, full));
    }
    for (std::size_t i = 0; i < scored.size(); ++i) add(scored[i], comparison_.ways[i]);
    comparison_.prompts.push_back(prompt);
    return true;
  }

  static void add(const Scored& scored, WayResult& result) {
    result.policy = scored.policy;
    result.cache_branch_id = scored.branch_id;
    result.prompts.push_back(scored.score);
    if (result.pictures.size() < kShownPrompts) result.pictures.push_back(scored.picture);
    result.step_errors.resize(scored.step_errors.size());
    for (std::size_t i = 0; i < scored.step_errors.size(); ++i) result.step_errors[i] += scored.step_errors[i];
  }

  StableDiffusionPipeline& pipe_;
  const CompareRequest& request_;
  Helper helper_;
  std::int64_t num_runs_ = 0;
  Comparison comparison_;
};

}  // namespace

Comparison compare(StableDiffusionPipeline& pipe, const CompareRequest& request) {
  return Comparer(pipe, request).compare();
}

}  // namespace deepcache
