#include <gtest/gtest.h>

#include <cmath>
#include <deepcache/deepcache.hpp>
#include <filesystem>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "edited_package.hpp"
#include "expect_error.hpp"

namespace deepcache {
namespace {

namespace fs = std::filesystem;

fs::path package(const char* name) {
  return fs::path(DEEPCACHE_TEST_DATA) / "packages" / name;
}

class FirstStepOnly : public CachePolicy {
  bool is_full_step(std::int64_t step_index) const override { return step_index == 0; }
  std::string describe() const override { return "the first step"; }
};

class GenerateTest : public testing::Test {
 protected:
  GenerateRequest request() const {
    return {.prompts = {"red heart"},
            .params = {.num_inference_steps = 3, .height = 64, .width = 64},
            .outputs = {.image = folder.path() / "a.png"}};
  }
  std::set<std::string> files() const {
    std::set<std::string> names;
    for (const auto& entry : fs::directory_iterator(folder.path())) names.insert(entry.path().filename().string());
    return names;
  }
  void refuse(const std::function<void(GenerateRequest&)>& edit, const std::vector<std::string>& parts) {
    auto asked = request();
    edit(asked);
    expect_error<std::invalid_argument>([&] { generate(pipe, asked); }, parts);
    EXPECT_TRUE(files().empty());
  }
  TemporaryFolder folder;
  StableDiffusionPipeline pipe = StableDiffusionPipeline::load(package("one_layer"));
};

TEST_F(GenerateTest, APolicyIsComparedWithFullSteps) {
  auto asked = request();
  asked.cache.policy = std::make_shared<FirstStepOnly>();
  asked.compare = true;
  asked.outputs.contact_sheet = folder.path() / "sheet.png";
  const auto reports = generate(pipe, asked);
  ASSERT_EQ(reports.size(), 1U);
  EXPECT_EQ(reports[0].stats.cached_steps, 2);
  ASSERT_TRUE(reports[0].compare);
  EXPECT_TRUE(std::isfinite(reports[0].compare->psnr_db));
  EXPECT_EQ(files(), (std::set<std::string>{"a.png", "a-uncached.png", "sheet.png"}));
}

TEST_F(GenerateTest, ACancelledRunLeavesWhatWasPaintedBefore) {
  auto asked = request();
  asked.prompts = {"red heart", "panda"};
  int steps = 0;
  asked.params.callback = [&](const PipelineStep&) { return ++steps < 5; };
  EXPECT_EQ(generate(pipe, asked).size(), 1U);
  EXPECT_EQ(steps, 5);
  EXPECT_EQ(files(), (std::set<std::string>{"a-1.png"}));
}

TEST_F(GenerateTest, RequestsThatCannotBeMet) {
  refuse([](auto& r) { r.prompts.clear(); }, {"one prompt or more"});
  refuse([](auto& r) { r.params.decode = false; }, {"decode must be true"});
  refuse([](auto& r) { r.outputs.image = ""; }, {"file has no name"});
  refuse([&](auto& r) { r.outputs.image = folder.path() / "a.mp4"; }, {"pictures are written as .png, got", "a.mp4"});
  refuse([&](auto& r) { r.outputs.report = folder.path() / "." / "a.png"; }, {"two outputs would have the name"});
  refuse([&](auto& r) { r.outputs.contact_sheet = folder.path() / "c.png"; }, {"contact sheet needs a comparison"});
  refuse([](auto& r) { r.params.num_inference_steps = 0; }, {"from 1 to the 1000", "not 0"});
}

TEST_F(GenerateTest, RefinersThatCannotGoOn) {
  auto refiner = StableDiffusionPipeline::load(package("sdxl_refiner"));
  const auto with_refiner = [&](auto set) {
    return [&refiner, set](GenerateRequest& request) {
      request.refiner = &refiner;
      set(request);
    };
  };
  refuse(with_refiner([](auto& r) { r.params.denoising_end = 0.5; }), {"refiner_start says where the model ends"});
  for (const double start : {0.0, 1.0, -1.0, std::nan("")})
    refuse(with_refiner([=](auto& r) { r.refiner_start = start; }), {"refiner_start must be above 0 and below 1, got"});
  refuse(with_refiner([](auto& r) { r.params.num_images_per_prompt = -1; }), {"num_images_per_prompt", "got -1"});
  refiner.set_scheduler("euler");
  refuse(with_refiner([](auto&) {}), {"can't go on", "EulerDiscreteScheduler", "DDIMScheduler"});
}

TEST_F(GenerateTest, ReportsSayWhatWasAsked) {
  auto asked = request();
  asked.params.eta = 0.5;
  asked.params.clip_skip = 1;
  asked.params.vae.slicing = true;
  const auto json = nlohmann::json::parse(generate(pipe, asked).at(0).request);
  EXPECT_EQ(json.at("eta"), 0.5);
  EXPECT_EQ(json.at("clip_skip"), 1);
  EXPECT_EQ(json.at("vae_slicing"), true);
  EXPECT_FALSE(json.contains("guidance_rescale"));  // as it is if nobody asks
}

}  // namespace
}  // namespace deepcache
