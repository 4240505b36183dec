#include <gtest/gtest.h>

#include <deepcache/deepcache.hpp>

#include "edited_package.hpp"
#include "expect_error.hpp"

namespace deepcache::controlnet_pipeline_test {
namespace {

const std::filesystem::path kPackages = std::filesystem::path(DEEPCACHE_TEST_DATA) / "packages";

StableDiffusionPipeline load(const std::string& model, const std::vector<std::filesystem::path>& controlnets) {
  LoadOptions options;
  for (const auto& controlnet : controlnets) options.controlnets.push_back(kPackages / controlnet);  // or as it is
  return StableDiffusionPipeline::load(kPackages / model, options);
}

class ControlNetPipeline : public testing::Test {
 protected:
  /// Two steps, of the control image's size.
  StableDiffusionParams quick() const { return {.num_inference_steps = 2, .control_images = {{.image = image}}}; }

  void refuse(const std::function<void(StableDiffusionParams&)>& edit, const std::vector<std::string>& parts) {
    auto params = quick();
    edit(params);
    expect_error<std::invalid_argument>([&] { pipe("red heart", params); }, parts);
  }
  torch::Tensor image = torch::linspace(0, 1, 3 * 64 * 72).view({3, 64, 72});
  StableDiffusionPipeline pipe = load("sd1", {"controlnet_sd1"});
};

TEST_F(ControlNetPipeline, PicturesHaveTheControlImagesSize) {
  const auto result = pipe("red heart", quick());
  EXPECT_EQ(result.images.sizes(), (torch::IntArrayRef{1, 3, 64, 72}));
  EXPECT_EQ(pipe.resolve(quick()).width, 72);
}

TEST_F(ControlNetPipeline, WithoutEffectItIsThePlainPipeline) {
  auto params = quick();
  const auto controlled = pipe("red heart", params).latents;
  params.control_images[0].conditioning_scale = 0;
  const auto plain = load("sd1", {})("red heart", {.num_inference_steps = 2, .height = 64, .width = 72}).latents;
  EXPECT_TRUE(pipe("red heart", params).latents.equal(plain));
  EXPECT_GT((controlled - plain).abs().max().item<float>(), 0.1);
  params = quick();
  params.control_images[0].guidance_start = 0.4;  // neither of the two halves begins there or later, and ends by 0.9
  params.control_images[0].guidance_end = 0.9;
  EXPECT_TRUE(pipe("red heart", params).latents.equal(plain));
}

TEST_F(ControlNetPipeline, OneImageForAllPromptsOrOneForEach) {
  auto params = quick();
  params.num_images_per_prompt = 2;
  params.seeds = {1, 2, 1, 2};
  params.control_images[0].image = torch::stack({image, 1 - image});
  const std::vector<std::string> prompts{"red heart", "panda"};
  const auto own = pipe(prompts, params).latents;
  for (const std::int64_t i : {0, 1}) {
    params.control_images[0].image = i == 0 ? image : 1 - image;
    const auto alone = pipe(prompts, params).latents;
    for (const auto row : {2 * i, 2 * i + 1})
      EXPECT_LT((own[row] - alone[row]).norm().item<float>(), 1e-4 * alone[row].norm().item<float>()) << row;
  }
  params.control_images[0].image = torch::stack({image, image, image});
  expect_error<std::invalid_argument>([&] { pipe(prompts, params); }, {"one for each of the 2 prompts, got 3"});
}

TEST_F(ControlNetPipeline, CachesAsAnyOther) {
  Helper helper(pipe);
  helper.set_params({.cache_interval = 2, .cache_module = "up_blocks.2.resnets.1"});
  const auto full = pipe("red heart", quick()).latents;
  helper.enable();
  const auto cached = pipe("red heart", quick()).latents;
  EXPECT_EQ(helper.stats().cached_steps, 1);
  EXPECT_FALSE(cached.equal(full));
  EXPECT_TRUE(cached.isfinite().all().item<bool>());
}

TEST_F(ControlNetPipeline, ControlImagesThatDoNotFit) {
  refuse([](auto& p) { p.control_images.clear(); },
         {"one control image for each of the pipeline's 1 ControlNets, got 0"});
  refuse([](auto& p) { p.control_images.push_back(p.control_images[0]); }, {"got 2"});
  refuse([](auto& p) { p.control_images[0].image = torch::Tensor(); }, {"a control image isn't set"});
  refuse([](auto& p) { p.control_images[0].image = torch::zeros({64, 64}); }, {"a control image must hold"});
  refuse(
      [](auto& p) {
        p.control_images[0].image = torch::zeros({1, 64, 64});
      },
      {"a control image must hold floating-point values of shape [3, 64, 64]", "got Float [1, 64, 64]"});
  refuse([](auto& p) { p.height = 128; }, {"of shape [3, 128, 72], or several, got Float [3, 64, 72]"});
  refuse(
      [](auto& p) {
        p.control_images[0].image = torch::zeros({3, 60, 64});
      },
      {"height must be a positive multiple"});
  refuse([](auto& p) { p.control_images[0].image = p.control_images[0].image * 255; },
         {"a control image must hold values from 0 to 1"});
  refuse([](auto& p) { p.control_images[0].conditioning_scale = std::nan(""); },
         {"conditioning_scale must be a finite"});
  for (const auto& [start, end] : {std::pair{-0.1, 1.0}, {0.5, 0.5}, {0.7, 0.3}, {0.0, 1.1}, {std::nan(""), 1.0}})
    refuse(
        [=](auto& p) {
          p.control_images[0].guidance_start = start;
          p.control_images[0].guidance_end = end;
        },
        {"guidance_start must be 0 or above, and below guidance_end, which must be 1 or below; got"});
  auto plain = load("sd1", {});
  expect_error<std::invalid_argument>([&] { plain("red heart", quick()); }, {"pipeline's 0 ControlNets, got 1"});
}

TEST(ControlNetLoading, PackagesThatDoNotFit) {
  const TemporaryFolder folder;
  expect_error<std::invalid_argument>([] { load("sd2", {"controlnet_sd1"}); },
                                      {"controlnet_sd1/controlnet/model.pt: ControlNet 0 is for another UNet",
                                       "encoder_hidden_states has width 32, this UNet's has 48"});
  expect_error<std::invalid_argument>(
      [] {
        load("sdxl", {"controlnet_sdxl", "controlnet_sd1"});
      },
      {"controlnet_sd1", "ControlNet 1 is for another UNet"});
  expect_error<std::runtime_error>([] { load("sd1", {"sd2"}); }, {"of family \"stable-diffusion\", no ControlNet"});
  expect_error<std::runtime_error>([] { StableDiffusionPipeline::load(kPackages / "controlnet_sd1"); },
                                   {"controlnet_sd1 holds a model of family \"controlnet\"; this pipeline runs"});
  expect_error<std::runtime_error>([] { load("sd1", {"nowhere"}); }, {"no such folder"});
  expect_error<std::invalid_argument>(
      [] { load("sd1_bfloat16", {"controlnet_sd1"}); },
      {"controlnet_sd1 runs in Float, the model in BFloat16: export both with the same --dtype"});
  const auto edited = [&](const std::string& key, const nlohmann::json& value) {
    return edited_package(folder, "controlnet_sd1", "controlnet/config.json", [&](auto& json) { json[key] = value; });
  };
  expect_error<std::runtime_error>(
      [&] {
        load("sd1", {edited("conditioning_embedding_out_channels", {4, 8})});
      },
      {"controlnet/config.json", "it halves control images 1 times", "8 times smaller"});
  expect_error<std::runtime_error>([&] { load("sd1", {edited("conditioning_channels", 1)}); },
                                   {"conditioning_channels must be 3, those of a picture, got 1"});
  expect_error<std::runtime_error>([&] { load("sd1", {edited("global_pool_conditions", true)}); },
                                   {"global_pool_conditions isn't supported"});
}

}  // namespace
}  // namespace deepcache::controlnet_pipeline_test
