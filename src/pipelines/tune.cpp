#include "deepcache/tune.hpp"

#include <torch/types.h>

#include <algorithm>
#include <cmath>
#include <iterator>
#include <map>
#include <nlohmann/json.hpp>
#include <tuple>
#include <utility>

#include "core/non_uniform_policy.hpp"
#include "error.hpp"
#include "io/files.hpp"
#include "io/forecast_shares.hpp"
#include "log.hpp"
#include "pipelines/describe_request.hpp"
#include "pipelines/likeness.hpp"
#include "pipelines/search_policy.hpp"
#include "pipelines/step_cost.hpp"

namespace deepcache {
namespace {

using FullSteps = std::vector<std::int64_t>;
using Json = nlohmann::ordered_json;

using ShareList = std::vector<ForecastShares>;

constexpr double kLeastGain = 0.02;                                       // dB
constexpr ForecastShares kFirstShares{.common = 0.9, .difference = 0.6};  // about what is judged to be best
constexpr std::int64_t kLongestInterval = 10;  // of evenly spread full steps, where a PSNR is looked for

void check(const TuneRequest& request) {
  check_argument(request.prompts.size() >= 2, "tuning needs two prompts or more, got {}", request.prompts.size());
  const auto targets = int{request.full_steps.has_value()} + request.min_psnr.has_value() + request.speedup.has_value();
  check_argument(targets == 1, "one of full_steps, min_psnr and speedup must be given, got {}", targets);
  check_argument(!request.min_psnr || std::isfinite(*request.min_psnr), "min_psnr must be finite, got {:g}",
                 request.min_psnr.value_or(0));
  check_argument(!request.speedup || (std::isfinite(*request.speedup) && *request.speedup > 1),
                 "speedup must be above 1, got {:g}", request.speedup.value_or(0));
  check_argument(!request.cache_branch_ids.empty(), "there must be one cache_branch_id or more, got none");
  check_argument(request.params.decode, "pictures are compared: decode must be true");
  check_argument(!request.params.callback, "a callback might end runs whose pictures are compared: none is allowed");
}

/// What tells given tensors from others.
Json digest(const torch::Tensor& tensor) {
  if (!tensor.defined()) return nullptr;
  const auto values = tensor.detach().to(torch::kCPU, torch::kDouble).flatten();
  const auto places = torch::arange(1, values.numel() + 1, torch::kDouble);
  return {values.numel(), values.sum().item<double>(), values.dot(places).item<double>()};
}

/// A prompt, and its uncached pictures.
struct Sample {
  std::string prompt;
  torch::Tensor pictures;
};

/// A branch, full steps, and shares.
using Try = std::tuple<std::int64_t, FullSteps, ShareList>;

Try try_of(const TunedPolicy& policy) {
  return {policy.cache_branch_id, policy.full_steps, policy.forecast_shares};
}

class Tuner {
 public:
  Tuner(StableDiffusionPipeline& pipe, const TuneRequest& request) : pipe_(pipe), request_(request), helper_(pipe) {
    check(request);
    for (const auto& prompt : request.prompts) pipe.validate({prompt}, request.params);
    for (const auto branch : request.cache_branch_ids)
      helper_.set_params({.cache_interval = 2, .cache_branch_id = branch, .forecast_order = request.forecast_order});
    helper_.enable();
    identity_ = identity();
    load_progress();
    for (const auto branch : request.cache_branch_ids)
      costs_[branch] = measure_cost(pipe, helper_, request.prompts[0], request.params, branch);
    num_steps_ = costs_.begin()->second.num_steps;
    check_argument(!request.full_steps || (*request.full_steps >= 1 && *request.full_steps <= num_steps_),
                   "full_steps must be 1 to the run's {} calls of the UNet, got {}", num_steps_,
                   request.full_steps.value_or(0));
    helper_.set_params({});
    for (std::size_t i = 0; i < request.prompts.size(); ++i) {
      const bool held_out = i % 4 == 3 || (request.prompts.size() < 4 && i + 1 == request.prompts.size());
      (held_out ? held_out_ : tuned_on_).push_back({request.prompts[i], run(request.prompts[i])});
    }
  }

  TuneResult tune() {
    for (const auto& [branch, cost] : costs_) {
      if (request_.full_steps) add_point(branch, *request_.full_steps);
      if (request_.speedup) find_speedup(branch, cost, *request_.speedup);
      if (request_.min_psnr) find_psnr(branch, cost, *request_.min_psnr);
    }
    choose();
    return std::move(result_);
  }

 private:
  torch::Tensor run(const std::string& prompt) { return pipe_(prompt, request_.params).images; }

  TunedPolicy policy(std::int64_t branch, FullSteps full_steps, ShareList shares = {}) const {
    return {.num_branches = pipe_.unet().num_branches(),
            .cache_branch_id = branch,
            .forecast_order = request_.forecast_order,
            .scheduler = pipe_.scheduler_name(),
            .num_inference_steps = request_.params.num_inference_steps,
            .num_steps = num_steps_,
            .full_steps = std::move(full_steps),
            .forecast_shares = std::move(shares)};
  }

  /// Mean PSNR of the samples' pictures with this policy.
  double psnr_of(const std::vector<Sample>& samples, const TunedPolicy& policy) {
    helper_.set_params(policy.cache_params(pipe_.unet()));
    double sum = 0;
    for (const auto& sample : samples) sum += finite_psnr(run(sample.prompt), sample.pictures);
    return sum / static_cast<double>(samples.size());
  }

  /// The same of those that are tuned on, looked up where it was measured before.
  double score(const TunedPolicy& policy, const SearchPass& pass) {
    const auto key = try_of(policy);
    auto found = tries_.find(key);
    if (found == tries_.end()) {
      found = tries_.emplace(key, psnr_of(tuned_on_, policy)).first;
      save_progress();
    }
    if (request_.on_try)
      request_.on_try({.tries = static_cast<std::int64_t>(tries_.size()),
                       .full_steps = policy.full_steps,
                       .forecast_shares = policy.forecast_shares,
                       .psnr_db = found->second,
                       .moves_done = pass.moves_done,
                       .moves = pass.moves});
    return found->second;
  }

  void add_point(std::int64_t branch, std::int64_t count) {
    const auto uniform = policy(branch, spread_full_steps(num_steps_, count));
    const auto even = policy(branch, even_full_steps(num_steps_, count));
    const auto& start = score(even, {}) > score(uniform, {}) ? even : uniform;
    const auto score_of_steps = [&](const FullSteps& tried, const SearchPass& pass) {
      return score(policy(branch, tried), pass);
    };
    auto tuned = policy(branch, search_full_steps(num_steps_, start.full_steps, score_of_steps, kLeastGain));
    if (request_.forecast_order > 0 && count > 1) fit_shares(tuned);
    result_.points.push_back({.policy = tuned,
                              .speedup = costs_.at(branch).speedup(count),
                              .uniform_psnr_db = tries_.at(try_of(uniform)),
                              .tuned_psnr_db = tries_.at(try_of(tuned)),
                              .held_out_uniform_psnr_db = psnr_of(held_out_, uniform),
                              .held_out_psnr_db = psnr_of(held_out_, tuned)});
  }

  /// Gives the policy shares, if there are better ones than those that are judged in the runs.
  void fit_shares(TunedPolicy& policy) {
    auto fitted = policy;
    const auto score_of_shares = [&](const ShareList& tried, const SearchPass& pass) {
      fitted.forecast_shares = tried;
      return score(fitted, pass);
    };
    const bool guided = pipe_.resolve(request_.params).guidance_scale > 1;
    fitted.forecast_shares =
        search_shares(ShareList(policy.full_steps.size(), kFirstShares), guided, score_of_shares, kLeastGain);
    if (tries_.at(try_of(fitted)) > tries_.at(try_of(policy)) + kLeastGain) policy = std::move(fitted);
  }

  void find_speedup(std::int64_t branch, const StepCost& cost, double speedup) {
    auto count = num_steps_;
    while (count > 1 && cost.speedup(count) < speedup) --count;
    add_point(branch, count);
  }

  /// From the longest interval on until one reaches it, then halving what is between that and the one before; as long
  /// as that is faster than what another branch reached.
  void find_psnr(std::int64_t branch, const StepCost& cost, double min_psnr) {
    std::int64_t too_few = 0, enough = num_steps_;
    const auto is_enough = [&](std::int64_t count) {
      if (std::ranges::any_of(result_.points, [&](const TunePoint& point) {
            return point.tuned_psnr_db >= min_psnr && point.speedup >= cost.speedup(count);
          }))
        return true;
      add_point(branch, count);
      return result_.points.back().tuned_psnr_db >= min_psnr;
    };
    const auto narrow = [&](std::int64_t count) { (is_enough(count) ? enough : too_few) = count; };
    for (auto interval = kLongestInterval; interval >= 2 && enough == num_steps_; --interval)
      if (const auto count = count_full_steps(num_steps_, interval); count > too_few && count < num_steps_)
        narrow(count);
    while (enough - too_few > 1) narrow((too_few + enough) / 2);
  }

  bool reaches(const TunePoint& point) const {
    return point.speedup >= request_.speedup.value_or(0) && point.tuned_psnr_db >= request_.min_psnr.value_or(0);
  }

  /// The best of the points that reach what is looked for: the fastest of those near enough, or else the nearest. If
  /// there are none, the fastest or nearest of all.
  void choose() {
    auto& points = result_.points;
    std::ranges::stable_sort(points, {}, &TunePoint::speedup);
    for (auto& point : points)
      point.on_front = std::ranges::none_of(points, [&](const TunePoint& other) {
        return other.speedup > point.speedup && other.tuned_psnr_db >= point.tuned_psnr_db;
      });
    std::vector<TunePoint> reached;
    std::ranges::copy_if(points, std::back_inserter(reached), [this](const auto& point) { return reaches(point); });
    result_.reached = !reached.empty();
    const bool by_speed = result_.reached ? request_.min_psnr.has_value() : request_.speedup.has_value();
    result_.best = *std::ranges::max_element(result_.reached ? reached : points, {}, [&](const TunePoint& point) {
      return by_speed ? point.speedup : point.tuned_psnr_db;
    });
    const auto& best = result_.best;
    if (best.held_out_psnr_db < best.held_out_uniform_psnr_db)
      log(LogLevel::kWarning,
          fmt::format(
              "on prompts that weren't tuned on, {:.1f} dB instead of the {:.1f} dB of uniformly spread full steps: "
              "{} prompts are too few to tune on",
              best.held_out_psnr_db, best.held_out_uniform_psnr_db, tuned_on_.size()));
  }

  /// What the tries depend on.
  Json identity() const {
    const auto& params = request_.params;
    auto json = describe_request({.model = request_.model, .prompts = request_.prompts, .params = params}, pipe_, "");
    json["prompts"] = request_.prompts;
    if (!params.negative_prompt) json.erase("negative_prompt");  // which isn't always an empty one
    json["model_type"] = pipe_.model_type();
    json["num_branches"] = pipe_.unet().num_branches();
    for (const auto& [name, tensor] :
         {std::pair("latents", params.latents), {"image", params.image}, {"mask", params.mask}})
      json["given"][name] = digest(tensor);
    for (const auto& control : params.control_images) json["given"]["controls"].push_back(digest(control.image));
    json["forecast_order"] = request_.forecast_order;
    return json;
  }

  void load_progress() {
    if (request_.progress.empty()) return;
    if (!std::filesystem::exists(request_.progress)) return check_writable(request_.progress);
    const auto json = read_json(request_.progress);
    const auto malformed = fmt::format("{} isn't what an earlier tuning left", request_.progress.string());
    check_data(json.contains("request") && json.contains("tries"), "{}", malformed);
    check_argument(json["request"] == nlohmann::json(identity_), "{} is what another request's tuning left: {}",
                   request_.progress.string(), json["request"].dump());
    try {
      for (const auto& tried : json["tries"])
        tries_[{tried.at(0).get<std::int64_t>(), tried.at(1).get<FullSteps>(), tried.at(2).get<ShareList>()}] =
            tried.at(3).get<double>();
    } catch (const std::exception& error) {
      throw std::runtime_error(fmt::format("{}: {}", malformed, error.what()));
    }
  }

  void save_progress() const {
    if (request_.progress.empty()) return;
    auto tries = Json::array();
    for (const auto& [tried, db] : tries_) {
      const auto& [branch, full_steps, shares] = tried;
      tries.push_back({branch, full_steps, shares, db});
    }
    write_file(request_.progress, Json{{"request", identity_}, {"tries", std::move(tries)}}.dump() + "\n");
  }

  StableDiffusionPipeline& pipe_;
  const TuneRequest& request_;
  Helper helper_;
  Json identity_;
  std::vector<Sample> tuned_on_, held_out_;
  std::map<std::int64_t, StepCost> costs_;  // by branch
  std::int64_t num_steps_ = 0;
  std::map<Try, double> tries_;  // PSNR in dB
  TuneResult result_;
};

}  // namespace

TuneResult tune(StableDiffusionPipeline& pipe, const TuneRequest& request) {
  return Tuner(pipe, request).tune();
}

}  // namespace deepcache
