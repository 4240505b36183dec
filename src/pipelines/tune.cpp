#include "deepcache/tune.hpp"

#include <torch/types.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <nlohmann/json.hpp>
#include <utility>

#include "deepcache/image.hpp"
#include "error.hpp"
#include "io/files.hpp"
#include "pipelines/describe_request.hpp"
#include "pipelines/search_full_steps.hpp"
#include "pipelines/step_cost.hpp"

namespace deepcache {
namespace {

using FullSteps = std::vector<std::int64_t>;
using Json = nlohmann::ordered_json;

constexpr double kLeastGain = 0.02;            // dB
constexpr std::int64_t kLongestInterval = 10;  // of evenly spread full steps, where a PSNR is looked for
constexpr double kEqualPsnr = 100;             // dB, taken for equal pictures' infinity in means

void check(const TuneRequest& request) {
  check_argument(request.prompts.size() >= 2, "tuning needs two prompts or more, got {}", request.prompts.size());
  const auto targets = int{request.full_steps.has_value()} + request.min_psnr.has_value() + request.speedup.has_value();
  check_argument(targets == 1, "one of full_steps, min_psnr and speedup must be given, got {}", targets);
  check_argument(!request.min_psnr || std::isfinite(*request.min_psnr), "min_psnr must be finite, got {:g}",
                 request.min_psnr.value_or(0));
  check_argument(!request.speedup || (std::isfinite(*request.speedup) && *request.speedup > 1),
                 "speedup must be above 1, got {:g}", request.speedup.value_or(0));
  check_argument(request.params.decode, "pictures are compared: decode must be true");
}

/// A prompt, and its uncached pictures.
struct Sample {
  std::string prompt;
  torch::Tensor pictures;
};

class Tuner {
 public:
  Tuner(StableDiffusionPipeline& pipe, const TuneRequest& request) : pipe_(pipe), request_(request), helper_(pipe) {
    check(request);
    pipe.validate(request.prompts, request.params);
    helper_.set_params(
        {.cache_interval = 2, .cache_branch_id = request.cache_branch_id, .forecast_order = request.forecast_order});
    helper_.set_params({});
    helper_.enable();
    load_progress();
    for (std::size_t i = 0; i < request.prompts.size(); ++i) {
      const bool held_out = i % 4 == 3 || (request.prompts.size() < 4 && i + 1 == request.prompts.size());
      (held_out ? held_out_ : tuned_on_).push_back({request.prompts[i], run(request.prompts[i])});
    }
    cost_ = measure_cost(pipe, helper_, request.prompts[0], request.params, request.cache_branch_id);
  }

  TuneResult tune() {
    if (request_.full_steps) {
      check_argument(*request_.full_steps >= 1 && *request_.full_steps <= cost_.num_steps,
                     "full_steps must be 1 to the run's {} calls of the UNet, got {}", cost_.num_steps,
                     *request_.full_steps);
      add_point(*request_.full_steps);
    } else if (request_.speedup) {
      auto count = cost_.num_steps;
      while (count > 1 && cost_.speedup(count) < *request_.speedup) --count;
      result_.reached = cost_.speedup(count) >= *request_.speedup;
      add_point(count);
    } else {
      find_psnr(*request_.min_psnr);
    }
    return std::move(result_);
  }

 private:
  torch::Tensor run(const std::string& prompt) { return pipe_(prompt, request_.params).images; }

  TunedPolicy policy(FullSteps full_steps) const {
    return {.num_branches = pipe_.unet().num_branches(),
            .cache_branch_id = request_.cache_branch_id,
            .forecast_order = request_.forecast_order,
            .num_steps = cost_.num_steps,
            .full_steps = std::move(full_steps)};
  }
  CacheParams cache_params(FullSteps full_steps) const {
    return policy(std::move(full_steps)).cache_params(pipe_.unet());
  }

  /// Mean PSNR of the samples' pictures with these full steps.
  double psnr_of(const std::vector<Sample>& samples, const FullSteps& full_steps) {
    helper_.set_params(cache_params(full_steps));
    double sum = 0;
    for (const auto& sample : samples) sum += std::min(kEqualPsnr, psnr(run(sample.prompt), sample.pictures));
    return sum / static_cast<double>(samples.size());
  }

  /// The same of those that are tuned on, looked up where it was measured before.
  double score(const FullSteps& full_steps) {
    auto found = tries_.find(full_steps);
    if (found == tries_.end()) {
      found = tries_.emplace(full_steps, psnr_of(tuned_on_, full_steps)).first;
      save_progress();
    }
    if (request_.on_try) request_.on_try(static_cast<std::int64_t>(tries_.size()), full_steps, found->second);
    return found->second;
  }

  void add_point(std::int64_t count) {
    const auto uniform = spread_full_steps(cost_.num_steps, count);
    const auto best = search_full_steps(
        cost_.num_steps, uniform, [this](const FullSteps& tried) { return score(tried); }, kLeastGain);
    result_.points.push_back({.full_steps = count,
                              .speedup = cost_.speedup(count),
                              .uniform_psnr_db = score(uniform),
                              .tuned_psnr_db = score(best),
                              .held_out_uniform_psnr_db = psnr_of(held_out_, uniform),
                              .held_out_psnr_db = psnr_of(held_out_, best)});
    result_.policy = policy(best);
  }

  /// From the longest interval down to two.
  void find_psnr(double min_psnr) {
    result_.reached = false;
    std::int64_t last = 0;
    for (auto interval = kLongestInterval; interval >= 2 && !result_.reached; --interval) {
      const auto count = (cost_.num_steps + interval - 1) / interval;
      if (count == std::exchange(last, count)) continue;
      add_point(count);
      result_.reached = result_.points.back().tuned_psnr_db >= min_psnr;
    }
  }

  /// What the tries depend on.
  Json identity() const {
    auto json = describe_request({.prompts = request_.prompts, .params = request_.params}, pipe_, "");
    json["prompts"] = request_.prompts;
    json["model_type"] = pipe_.model_type();
    json["cache_branch_id"] = request_.cache_branch_id;
    json["forecast_order"] = request_.forecast_order;
    return json;
  }

  void load_progress() {
    if (request_.progress.empty()) return;
    if (!std::filesystem::exists(request_.progress)) return check_writable(request_.progress);
    const auto json = read_json(request_.progress);
    check_data(json.contains("request") && json.contains("tries"), "{} isn't what an earlier tuning left",
               request_.progress.string());
    check_argument(json["request"] == nlohmann::json(identity()), "{} is what another request's tuning left: {}",
                   request_.progress.string(), json["request"].dump());
    for (const auto& tried : json["tries"]) tries_[tried.at(0).get<FullSteps>()] = tried.at(1).get<double>();
  }

  void save_progress() const {
    if (request_.progress.empty()) return;
    auto tries = Json::array();
    for (const auto& [full_steps, db] : tries_) tries.push_back({full_steps, db});
    write_file(request_.progress, Json{{"request", identity()}, {"tries", std::move(tries)}}.dump() + "\n");
  }

  StableDiffusionPipeline& pipe_;
  const TuneRequest& request_;
  Helper helper_;
  std::vector<Sample> tuned_on_, held_out_;
  StepCost cost_;
  std::map<FullSteps, double> tries_;
  TuneResult result_;
};

}  // namespace

TuneResult tune(StableDiffusionPipeline& pipe, const TuneRequest& request) {
  return Tuner(pipe, request).tune();
}

}  // namespace deepcache
