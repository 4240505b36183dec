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

namespace deepcache::generate_test {
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

TEST_F(GenerateTest, ABatchOfPromptsPaintsWhatEachPaintsAlone) {
  using Params = StableDiffusionParams;
  torch::manual_seed(5);
  const auto image = torch::rand({3, 64, 64});
  const std::vector<std::pair<std::string, std::function<void(Params&)>>> kinds{
      {"text to image", [](Params&) {}},
      {"noise in each step", [](Params& p) { p.eta = 0.7; }},
      {"given noise",
       [](Params& p) {
         p.latents = torch::randn({1, 4, 8, 8});
       }},
      {"image to image", [&](Params& p) { p.image = image; }},
      {"inpainting, with noise in each step", [&](Params& p) {
         p.image = image.unsqueeze(0);
         p.mask = torch::ones({1, 64, 64}).triu();
         p.strength = 0.8;
         p.eta = 0.7;
       }}};
  for (const auto& [name, set] : kinds) {
    SCOPED_TRACE(name);
    auto asked = request();
    asked.prompts = {"red heart", "panda", "a green apple"};
    asked.params.num_inference_steps = 4;
    asked.params.seeds = {7};
    set(asked.params);
    const auto paint = [&](std::int64_t prompt_batch) {
      asked.prompt_batch = prompt_batch;
      asked.outputs.latents = folder.path() / "latents.pt";
      const auto reports = generate(pipe, asked);
      EXPECT_EQ(reports.size(), 3U);
      return load_tensor(asked.outputs.latents);
    };
    const auto alone = paint(1);
    for (const std::int64_t batch : {2, 8}) {
      const auto together = paint(batch);
      for (std::int64_t row = 0; row < 3; ++row)
        EXPECT_LT((together[row] - alone[row]).norm().item<double>(), 1e-4 * alone[row].norm().item<double>()) << row;
    }
    EXPECT_GT((alone[0] - alone[1]).norm().item<double>(), 0.01 * alone[0].norm().item<double>());
  }
}

TEST_F(GenerateTest, EachPromptOfABatchIsReported) {
  auto asked = request();
  asked.prompts = {"red heart", "panda", "sun"};
  asked.compare = true;
  asked.outputs.contact_sheet = folder.path() / "sheet.png";
  const auto alone = generate(pipe, asked);
  asked.prompt_batch = 2;
  std::vector<std::string> told;
  asked.on_prompt = [&](const RunReport& report) { told.push_back(report.summary()); };
  const auto reports = generate(pipe, asked);
  ASSERT_EQ(reports.size(), 3U);
  ASSERT_EQ(told.size(), 3U);
  for (std::size_t i = 0; i < 3; ++i) {
    EXPECT_EQ(reports[i].request, alone[i].request);
    EXPECT_NEAR(reports[i].compare->psnr_db, alone[i].compare->psnr_db, 0.1);
    const auto totals = nlohmann::json::parse(reports[i].json()).at("totals");
    EXPECT_EQ(totals.value("prompts", 1), i < 2 ? 2 : 1);
    EXPECT_EQ(told[i].find(" for 2 prompts") != std::string::npos, i < 2) << told[i];
  }
  EXPECT_EQ(files(), (std::set<std::string>{"a-1.png", "a-1-uncached.png", "a-2.png", "a-2-uncached.png", "a-3.png",
                                            "a-3-uncached.png", "sheet.png"}));
}

TEST_F(GenerateTest, RequestsThatCannotBeMet) {
  refuse([](auto& r) { r.prompts.clear(); }, {"one prompt or more"});
  refuse([](auto& r) { r.params.decode = false; }, {"decode must be true"});
  refuse([](auto& r) { r.outputs.image = ""; }, {"file has no name"});
  refuse([&](auto& r) { r.outputs.image = folder.path() / "a.mp4"; }, {"pictures are written as .png, got", "a.mp4"});
  refuse([&](auto& r) { r.outputs.report = folder.path() / "." / "a.png"; }, {"two outputs would have the name"});
  refuse([&](auto& r) { r.outputs.contact_sheet = folder.path() / "c.png"; }, {"contact sheet needs a comparison"});
  refuse([](auto& r) { r.params.num_inference_steps = 0; }, {"from 1 to the 1000", "not 0"});
  refuse([](auto& r) { r.prompt_batch = 0; }, {"prompt_batch must be 1 or above, got 0"});
  for (const auto count : {&StableDiffusionParams::num_images_per_prompt, &StableDiffusionParams::max_prompt_chunks})
    refuse(
        [&](auto& r) {
          r.prompt_batch = 4;
          r.params.*count = 2;
        },
        {"prompt_batch of 4, num_images_per_prompt and max_prompt_chunks must be 1, got", "2"});
}

TEST_F(GenerateTest, PromptsAreReadFromAFile) {
  const auto file = folder.path() / "prompts.txt";
  write_file(file, "\xEF\xBB\xBFred heart\r\n\n \t\r\n  a (blue) sun, caf\xC3\xA9\nlast");
  EXPECT_EQ(load_prompts(file), (std::vector<std::string>{"red heart", "  a (blue) sun, caf\xC3\xA9", "last"}));

  const auto refuse_file = [&](const std::string& text, const std::vector<std::string>& parts) {
    write_file(file, text);
    expect_error<std::runtime_error>([&] { load_prompts(file); }, parts);
  };
  refuse_file("", {"prompts.txt must hold a prompt a line, got none in 0 bytes"});
  refuse_file("\n \n", {"prompts.txt must hold a prompt a line, got none in 3 bytes"});
  refuse_file("heart\ncaf\xE9\n", {"prompts.txt must be UTF-8, got something else at byte 9 of 11"});
  expect_error<std::runtime_error>([&] { load_prompts(folder.path() / "absent.txt"); }, {"no such file", "absent.txt"});
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

TEST_F(GenerateTest, TheRefinerIsToldTheAestheticScore) {
  auto refiner = StableDiffusionPipeline::load(package("sdxl_refiner"));
  auto asked = request();
  asked.refiner = &refiner;
  asked.refiner_start = 0.4;
  const auto latents = [&](double score) {
    asked.params.aesthetic_score = score;
    asked.outputs.latents = folder.path() / "latents.pt";
    generate(pipe, asked);
    return load_tensor(asked.outputs.latents);
  };
  const auto usual = latents(6);
  EXPECT_TRUE(latents(6).equal(usual));
  EXPECT_FALSE(latents(9).equal(usual));
}

TEST(ProgressBar, ShowsHowFarSomethingIs) {
  EXPECT_EQ(progress_bar(1, 2), "[####################                    ] 1/2");
  EXPECT_EQ(progress_bar(0, 1), "[                                        ] 0/1");
  for (const auto& [done, total] : {std::pair(0, 0), {2, 1}, {-1, 1}})
    expect_error<std::invalid_argument>([&, done = done, total = total] { progress_bar(done, total); },
                                        {"must be 0 to all, of 1 or more; got"});
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
}  // namespace deepcache::generate_test
