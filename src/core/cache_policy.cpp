#include "deepcache/cache_policy.hpp"

#include "error.hpp"

namespace deepcache {
namespace {

class UniformPolicy : public CachePolicy {
 public:
  explicit UniformPolicy(std::int64_t cache_interval) : cache_interval_(cache_interval) {
    check_argument(cache_interval >= 1, "cache_interval must be 1 or above, got {}", cache_interval);
  }
  bool is_full_step(std::int64_t step_index) const override { return step_index % cache_interval_ == 0; }
  std::string describe() const override {
    return cache_interval_ == 1 ? "every step" : fmt::format("uniform, every {} steps", cache_interval_);
  }

 private:
  std::int64_t cache_interval_;
};

}  // namespace

std::shared_ptr<const CachePolicy> make_uniform_policy(std::int64_t cache_interval) {
  return std::make_shared<UniformPolicy>(cache_interval);
}

}  // namespace deepcache
