#include <algorithm>
#include <cmath>
#include <functional>
#include <utility>

#include "deepcache/cache_policy.hpp"
#include "error.hpp"

namespace deepcache {
namespace {

class ListPolicy : public CachePolicy {
 public:
  ListPolicy(std::vector<std::int64_t> full_steps, std::vector<ForecastShares> forecast_shares)
      : full_steps_(std::move(full_steps)), forecast_shares_(std::move(forecast_shares)) {
    check_argument(!full_steps_.empty() && full_steps_[0] == 0, "the list of full steps must begin with 0, got [{}]",
                   fmt::join(full_steps_, ", "));
    check_argument(std::ranges::adjacent_find(full_steps_, std::greater_equal()) == full_steps_.end(),
                   "the list of full steps must rise, got [{}]", fmt::join(full_steps_, ", "));
    check_argument(forecast_shares_.empty() || forecast_shares_.size() == full_steps_.size(),
                   "forecast_shares must be none, or one for each of the {} full steps, got {}", full_steps_.size(),
                   forecast_shares_.size());
    for (const auto& [common, difference] : forecast_shares_)
      check_argument(std::isfinite(common) && std::isfinite(difference),
                     "forecast_shares must be finite, got {:g} and {:g}", common, difference);
  }
  bool is_full_step(std::int64_t step_index) const override {
    return std::ranges::binary_search(full_steps_, step_index);
  }
  std::optional<ForecastShares> forecast_shares(std::int64_t step_index) const override {
    if (forecast_shares_.empty() || step_index <= 0) return std::nullopt;
    const auto before = std::ranges::lower_bound(full_steps_, step_index) - full_steps_.begin() - 1;
    return forecast_shares_[static_cast<std::size_t>(before)];
  }
  std::string describe() const override {
    std::vector<std::string> shares;
    for (const auto& [common, difference] : forecast_shares_)
      shares.push_back(fmt::format("{:g}/{:g}", common, difference));
    return fmt::format("steps {}{}{}", fmt::join(full_steps_, ", "), shares.empty() ? "" : "; forecast shares ",
                       fmt::join(shares, ", "));
  }

 private:
  std::vector<std::int64_t> full_steps_;
  std::vector<ForecastShares> forecast_shares_;
};

class TimestepPolicy : public CachePolicy {
 public:
  TimestepPolicy(std::span<const double> timesteps, double distance) : distance_(distance) {
    check_argument(std::isfinite(distance) && distance > 0, "timestep_distance must be above 0, got {:g}", distance);
    for (double last = NAN; const auto timestep : timesteps) {
      full_.push_back(!(std::abs(timestep - last) < distance));
      if (full_.back()) last = timestep;
    }
  }
  bool is_full_step(std::int64_t step_index) const override {
    const auto index = static_cast<std::size_t>(step_index);
    return index >= full_.size() || full_[index];
  }
  std::string describe() const override {
    return fmt::format("every {:g} timesteps, {} of {} steps", distance_, std::ranges::count(full_, true),
                       full_.size());
  }

 private:
  double distance_;
  std::vector<bool> full_;
};

class WindowPolicy : public CachePolicy {
 public:
  WindowPolicy(std::shared_ptr<const CachePolicy> inner, std::int64_t num_steps, std::int64_t first, std::int64_t last)
      : inner_(std::move(inner)), num_steps_(num_steps), first_(first), last_(last) {
    check_argument(inner_ != nullptr, "a window needs a policy for the steps between");
    check_argument(num_steps >= 1, "a window's number of steps must be 1 or above, got {}", num_steps);
    check_argument(first >= 0 && last >= 0, "a window's full steps must be 0 or more at either end, got {} and {}",
                   first, last);
  }
  bool is_full_step(std::int64_t step_index) const override {
    return step_index < first_ || step_index >= num_steps_ - last_ || inner_->is_full_step(step_index);
  }
  std::vector<double> forecast_weights(std::int64_t step_index) const override {
    return inner_->forecast_weights(step_index);
  }
  std::int64_t num_forecast_weights() const override { return inner_->num_forecast_weights(); }
  std::optional<ForecastShares> forecast_shares(std::int64_t step_index) const override {
    return inner_->forecast_shares(step_index);
  }
  std::string describe() const override {
    return fmt::format("{}; the first {} and last {} of {} full", inner_->describe(), first_, last_, num_steps_);
  }

 private:
  std::shared_ptr<const CachePolicy> inner_;
  std::int64_t num_steps_, first_, last_;
};

}  // namespace

std::shared_ptr<const CachePolicy> make_list_policy(std::vector<std::int64_t> full_steps,
                                                    std::vector<ForecastShares> forecast_shares) {
  return std::make_shared<ListPolicy>(std::move(full_steps), std::move(forecast_shares));
}

std::shared_ptr<const CachePolicy> make_timestep_policy(std::span<const double> timesteps, double distance) {
  return std::make_shared<TimestepPolicy>(timesteps, distance);
}

std::shared_ptr<const CachePolicy> make_window_policy(std::shared_ptr<const CachePolicy> inner, std::int64_t num_steps,
                                                      std::int64_t first, std::int64_t last) {
  return std::make_shared<WindowPolicy>(std::move(inner), num_steps, first, last);
}

}  // namespace deepcache
