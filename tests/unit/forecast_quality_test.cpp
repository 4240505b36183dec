#include <gtest/gtest.h>

#include <optional>

#include "deepcache/helper.hpp"
#include "deepcache/image.hpp"
#include "deepcache/stable_diffusion.hpp"

namespace deepcache::forecast_quality_test {
namespace {

const std::vector<std::string> kPrompts{"red heart",    "green apple",          "panda",       "whale",
                                        "purple apple", "rocket with cat face", "blue banana", "golden guitar"};

/// Of the embedded model, 50 steps.
torch::Tensor pictures(StableDiffusionPipeline& pipe, const std::optional<CacheParams>& cache) {
  Helper helper(pipe);
  helper.set_params(cache.value_or(CacheParams{}));
  helper.enable();
  return pipe(kPrompts, {.num_inference_steps = 50, .guidance_scale = 4, .seeds = {0}}).images;
}

double mean_psnr(const torch::Tensor& images, const torch::Tensor& expected) {
  double sum = 0;
  for (std::int64_t i = 0; i < images.size(0); ++i) sum += psnr(images[i], expected[i]);
  return sum / static_cast<double>(images.size(0));
}

TEST(ForecastQuality, NearerToTheUncachedPicturesThanReuseAtAnyInterval) {
  auto pipe = StableDiffusionPipeline::load(std::filesystem::path(DEEPCACHE_MODELS) / "emoji");
  pipe.set_scheduler("ddim");
  const auto full = pictures(pipe, std::nullopt);
  for (const auto& [interval, gain_db] :
       std::initializer_list<std::pair<std::int64_t, double>>{{2, 6}, {3, 6}, {5, 3}, {10, 2}}) {
    const auto reused = mean_psnr(pictures(pipe, CacheParams{.cache_interval = interval, .forecast_order = 0}), full);
    const auto forecast = mean_psnr(pictures(pipe, CacheParams{.cache_interval = interval}), full);
    EXPECT_GE(forecast, reused + gain_db) << "interval " << interval;
  }
}

}  // namespace
}  // namespace deepcache::forecast_quality_test
