#include <gtest/gtest.h>

#include <cmath>
#include <deepcache/deepcache.hpp>
#include <nlohmann/json.hpp>
#include <utility>

#include "edited_package.hpp"
#include "expect_error.hpp"

namespace deepcache::pipeline_test {
namespace {

const std::filesystem::path kPackages = std::filesystem::path(DEEPCACHE_TEST_DATA) / "packages";

/// Two steps of 64x64 pixels: quick.
StableDiffusionParams quick() {
  return {.num_inference_steps = 2, .height = 64, .width = 64};
}

class PipelineTest : public testing::Test {
 protected:
  void refuse(const std::function<void(StableDiffusionParams&)>& edit, const std::vector<std::string>& parts) {
    auto params = quick();
    edit(params);
    expect_error<std::invalid_argument>([&] { pipe("red heart", params); }, parts);
  }
  StableDiffusionPipeline pipe = StableDiffusionPipeline::load(kPackages / "one_layer");
};

TEST_F(PipelineTest, ShapesAndRanges) {
  const auto result = pipe("red heart", {.num_inference_steps = 2});
  EXPECT_EQ(result.images.sizes(), (torch::IntArrayRef{1, 3, 128, 128}));  // the model's own size
  EXPECT_EQ(result.images.scalar_type(), torch::kFloat);
  EXPECT_GE(result.images.min().item<float>(), 0);
  EXPECT_LE(result.images.max().item<float>(), 1);
  EXPECT_EQ(result.latents.sizes(), (torch::IntArrayRef{1, 4, 16, 16}));
  EXPECT_FALSE(result.cancelled);
  auto params = quick();
  params.decode = false;
  const auto latents_only = pipe("red heart", params);
  EXPECT_FALSE(latents_only.images.defined());
  params.decode = true;
  EXPECT_TRUE(pipe.decode(latents_only.latents).equal(pipe("red heart", params).images));
}

TEST_F(PipelineTest, SeedsOneForTheBatchOrOneForEachImage) {
  auto params = quick();
  params.num_images_per_prompt = 2;
  params.seeds = {5, 6};
  const auto both = pipe("red heart", params).latents;
  params.num_images_per_prompt = 1;
  params.seeds = {6};
  EXPECT_LT((pipe("red heart", params).latents[0] - both[1]).norm().item<float>(), 1e-4 * both[1].norm().item<float>());
}

TEST_F(PipelineTest, SeveralPromptsGoFirstByPrompt) {
  auto params = quick();
  params.num_images_per_prompt = 2;
  params.seeds = {1, 1, 1, 1};
  const auto latents = pipe(std::vector<std::string>{"red heart", "panda"}, params).latents;
  EXPECT_LT((latents[0] - latents[1]).norm().item<float>(), 1e-4);
  EXPECT_LT((latents[2] - latents[3]).norm().item<float>(), 1e-4);
  EXPECT_GT((latents[1] - latents[2]).norm().item<float>(), 1e-2);
}

TEST_F(PipelineTest, CallbackSeesEachStepAndMayCancel) {
  auto params = quick();
  params.num_inference_steps = 5;
  std::vector<std::int64_t> steps;
  torch::Tensor last;
  params.callback = [&](const PipelineStep& step) {
    EXPECT_EQ(step.num_steps, 5);
    steps.push_back(step.step_index);
    last = step.latents;
    return step.step_index < 2;
  };
  Helper helper(pipe);
  helper.set_params({.cache_interval = 2});
  helper.enable();
  const auto result = pipe("red heart", params);
  EXPECT_EQ(steps, (std::vector<std::int64_t>{0, 1, 2}));
  EXPECT_TRUE(result.cancelled);
  EXPECT_FALSE(result.images.defined());
  EXPECT_TRUE(result.latents.equal(last));
  EXPECT_EQ(helper.stats().steps.size(), 3U);
  params.callback = {};
  EXPECT_FALSE(pipe("red heart", params).cancelled);  // a run after a cancelled one begins anew
  EXPECT_EQ(helper.stats().steps.size(), 5U);
}

TEST_F(PipelineTest, AThrowingCallbackLeavesThePipelineUsable) {
  Helper helper(pipe);
  helper.set_params({.cache_interval = 2});
  helper.enable();
  const auto expected = pipe("red heart", quick()).latents;
  auto params = quick();
  params.callback = [](const PipelineStep&) -> bool { throw std::logic_error("enough"); };
  EXPECT_THROW(pipe("red heart", params), std::logic_error);
  EXPECT_TRUE(pipe("red heart", quick()).latents.equal(expected));
}

TEST_F(PipelineTest, SchedulersByName) {
  EXPECT_EQ(pipe.scheduler_name(), "DDIMScheduler");
  pipe.set_scheduler("plms");
  EXPECT_EQ(pipe.scheduler_name(), "plms");
  expect_error<std::invalid_argument>([&] { pipe.set_scheduler("magic"); }, {"magic", "ddim", "plms"});
  EXPECT_EQ(pipe.scheduler_name(), "plms");
}

TEST_F(PipelineTest, APackageOfAnUnknownSchedulerRunsWithAnotherOne) {
  const TemporaryFolder folder;
  const auto package = edited_package(folder, "one_layer", "scheduler/scheduler_config.json",
                                      [](auto& json) { json["_class_name"] = "NewScheduler"; });
  expect_error<std::runtime_error>([&] { StableDiffusionPipeline::load(package); }, {"NewScheduler"});
  auto other = StableDiffusionPipeline::load(package, {.scheduler = "ddim"});
  EXPECT_TRUE(other("red heart", quick()).latents.equal(pipe("red heart", quick()).latents));
}

TEST_F(PipelineTest, PackagesThatLackANetwork) {
  const TemporaryFolder folder;
  const auto without = [&](const char* name) {
    return edited_package(folder, "one_layer", "deepcache.json", [&](auto& json) { json["files"].erase(name); });
  };
  expect_error<std::runtime_error>([&] { StableDiffusionPipeline::load(without("vae/decoder.pt")); },
                                   {"deepcache.json lists no vae/decoder.pt"});
  expect_error<std::runtime_error>([&] { StableDiffusionPipeline::load(without("text_encoder/model.pt")); },
                                   {"the package has no text encoder"});
  auto other = StableDiffusionPipeline::load(without("vae/encoder.pt"));
  EXPECT_NO_THROW(other.validate({"x"}, quick()));
  auto params = quick();
  params.image = torch::zeros({3, 64, 64});
  expect_error<std::runtime_error>([&] { other.validate({"x"}, params); }, {"lists no vae/encoder.pt"});
  params.image = torch::zeros({1, 4, 8, 8});  // latents, which nothing encodes
  EXPECT_NO_THROW(other.validate({"x"}, params));
}

TEST_F(PipelineTest, TilesNeedPixels) {
  const TemporaryFolder folder;
  const auto package =
      edited_package(folder, "one_layer", "vae/config.json", [](auto& json) { json["sample_size"] = 8; });
  const auto other = StableDiffusionPipeline::load(package);
  auto params = quick();
  EXPECT_NO_THROW(other.validate({"x"}, params));
  params.vae.tiling = true;
  const std::vector<std::string> message{"a side of 8 pixels, its sample_size; it must be 16 or more"};
  expect_error<std::invalid_argument>([&] { other.validate({"x"}, params); }, message);
  expect_error<std::invalid_argument>([&] { other.decode(torch::zeros({1, 4, 8, 8}), params.vae); }, message);
}

TEST_F(PipelineTest, LatentsThatCannotBeDecoded) {
  for (const auto& latents :
       {torch::Tensor(), torch::zeros({4, 8, 8}), torch::zeros({1, 3, 8, 8}), torch::zeros({1, 4, 8, 8}, torch::kLong)})
    expect_error<std::invalid_argument>([&] { pipe.decode(latents); }, {"latents must be", "[B, 4, h, w], got"});
}

TEST_F(PipelineTest, ValidatingDuringARunLeavesItAlone) {
  pipe.set_scheduler("plms");
  auto params = quick();
  params.num_inference_steps = 6;
  const auto expected = pipe("red heart", params).latents;
  params.callback = [&](const PipelineStep&) {
    pipe.validate({"panda"}, quick());
    return true;
  };
  EXPECT_TRUE(pipe("red heart", params).latents.equal(expected));
}

TEST_F(PipelineTest, ModelTypesAreToldByTheTextEncodersWidth) {
  const TemporaryFolder folder;
  for (const auto& [width, type] : {std::pair{768, "sd1.5"}, {1024, "sd2.1"}, {64, "sd"}}) {
    const auto package = edited_package(folder, "one_layer", "unet/config.json",
                                        [width = width](auto& json) { json["cross_attention_dim"] = width; });
    EXPECT_EQ(StableDiffusionPipeline::load(package).model_type(), type);
  }
}

TEST_F(PipelineTest, WhatSdxlAloneIsTold) {
  const auto refuse_in = [](StableDiffusionPipeline& pipeline, const std::function<void(StableDiffusionParams&)>& edit,
                            const std::vector<std::string>& parts) {
    auto params = quick();
    edit(params);
    expect_error<std::invalid_argument>([&] { pipeline.validate({"x"}, params); }, parts);
  };
  refuse_in(pipe, [](auto& p) { p.target_size = {.height = 8, .width = 8}; }, {"are SDXL's; this isn't one"});
  refuse_in(pipe, [](auto& p) { p.crops_coords_top_left = {.height = 0, .width = 8}; }, {"crops", "are SDXL's"});
  refuse_in(pipe, [](auto& p) { p.aesthetic_score = 7; }, {"of SDXL's refiner; this isn't one, got 7 and 2.5"});
  auto refiner = StableDiffusionPipeline::load(kPackages / "sdxl_refiner");
  refuse_in(refiner,
            [](auto& p) {
              p.image = torch::zeros({3, p.height, p.width});
              p.negative_aesthetic_score = std::nan("");
            },
            {"aesthetic scores must be finite numbers, got 6 and nan"});

  const TemporaryFolder folder;
  const auto package =
      edited_package(folder, "sdxl", "model_index.json", [](auto& json) { json["requires_aesthetics_score"] = true; });
  expect_error<std::runtime_error>(
      [&] { StableDiffusionPipeline::load(package); },
      {"unet/config.json", "projection_class_embeddings_input_dim", "40 and 40", "got 88"});
}

TEST_F(PipelineTest, InputsThatItDoesNotKnow) {
  const TemporaryFolder folder;
  const auto package = edited_package(folder, "one_layer", "deepcache.json", [](auto& json) {
    const auto file = kPackages / "svd/unet/model.pt";
    json["files"]["unet/model.pt"] = {{"bytes", std::filesystem::file_size(file)}, {"sha256", sha256(file)}};
  });
  std::filesystem::copy_file(kPackages / "svd/unet/model.pt", package / "unet/model.pt",
                             std::filesystem::copy_options::overwrite_existing);
  expect_error<std::runtime_error>([&] { StableDiffusionPipeline::load(package); },
                                   {"the UNet has an input \"added_time_ids\"; this pipeline knows", "text_embeds"});
}

TEST_F(PipelineTest, ModelsThatItDoesNotKnow) {
  const TemporaryFolder folder;
  const auto vae = edited_package(folder, "one_layer", "vae/config.json",
                                  [](auto& json) { json["block_out_channels"] = std::vector<int>(16, 8); });
  expect_error<std::runtime_error>([&] { StableDiffusionPipeline::load(vae); },
                                   {"vae/config.json", "block_out_channels must have 1 to 15 entries, got 16"});
  const auto package =
      edited_package(folder, "one_layer", "unet/config.json", [](auto& json) { json["in_channels"] = 8; });
  expect_error<std::runtime_error>([&] { StableDiffusionPipeline::load(package); },
                                   {"unet/config.json", "in_channels must be the VAE's 4, or 9 for inpainting, got 8"});
}

TEST_F(PipelineTest, ParametersOutOfRange) {
  refuse([](auto& p) { p.num_inference_steps = 0; }, {"inference steps must be from 1 to the 1000", "not 0"});
  refuse([](auto& p) { p.num_inference_steps = 1001; }, {"from 1 to the 1000", "not 1001"});
  refuse([](auto& p) { p.width = 100; }, {"width must be a positive multiple of 8", "nearest to 100 are 96 and 104"});
  refuse([](auto& p) { p.height = 3; }, {"height", "nearest to 3 are 8 and 16"});
  refuse([](auto& p) { p.height = -8; }, {"height must be a positive multiple of 8"});
  refuse([](auto& p) { p.num_images_per_prompt = 0; }, {"num_images_per_prompt must be 1 or above, got 0"});
  refuse([](auto& p) { p.guidance_scale = std::nan(""); }, {"guidance_scale must be a finite number"});
  refuse([](auto& p) { p.guidance_rescale = 1.5; }, {"guidance_rescale must be 0 to 1, got 1.5"});
  refuse([](auto& p) { p.clip_skip = 3; }, {"clip_skip must be 0 to 2 for this model, got 3"});
  refuse([](auto& p) { p.clip_skip = -1; }, {"clip_skip must be 0 to 2", "got -1"});
  refuse([](auto& p) { p.prompt_2.emplace("x"); }, {"second text encoder's; this model has one"});
  refuse([](auto& p) { p.target_size = ImageSize{64, 64}; }, {"are SDXL's"});
  refuse([](auto& p) { p.negative_prompt.emplace("\xff"); }, {"UTF-8"});
  refuse([](auto& p) { p.eta = 1.5; }, {"eta must be 0 to 1, got 1.5"});
  refuse([](auto& p) { p.seeds = {}; }, {"one seed, or one for each of the batch's 1, got 0"});
  refuse([](auto& p) { p.seeds = {1, 2}; }, {"got 2"});
  refuse([](auto& p) { p.latents = torch::ones({1, 4, 8, 9}); }, {"shape [1, 4, 8, 8], got Float [1, 4, 8, 9]"});
  refuse([](auto& p) { p.latents = torch::ones({1, 4, 8, 8}, torch::kLong); }, {"floating-point", "got Long"});
  expect_error<std::invalid_argument>([&] { pipe(std::vector<std::string>{}, quick()); },
                                      {"one prompt or more, got none"});
  expect_error<std::invalid_argument>([&] { pipe("\xff", quick()); }, {"UTF-8"});
  expect_error<std::invalid_argument>([&] { pipe.validate({"fine", "\xff"}, quick()); }, {"UTF-8"});
  EXPECT_NO_THROW(pipe.validate({"fine"}, quick()));
  pipe.set_scheduler("plms");
  refuse([](auto& p) { p.eta = 0.5; }, {"eta is an option of DDIM; PNDMScheduler has none, got 0.5"});
}

TEST_F(PipelineTest, WhatIsLeftToTheModel) {
  const auto plain = pipe.resolve({});
  EXPECT_EQ(std::tie(plain.height, plain.width), std::make_tuple(128, 128));
  EXPECT_EQ(plain.guidance_scale, 7.5);
  EXPECT_FALSE(plain.strength);
  const auto pixels = pipe.resolve({.image = torch::zeros({3, 64, 72})});
  EXPECT_EQ(std::tie(pixels.height, pixels.width), std::make_tuple(64, 72));
  EXPECT_EQ(pixels.strength, 0.8);
  const auto latents = pipe.resolve({.image = torch::zeros({1, 4, 8, 9})});
  EXPECT_EQ(std::tie(latents.height, latents.width), std::make_tuple(64, 72));
}

TEST(PipelineFamilies, DefaultsAreThoseOfTheTask) {
  const auto image = torch::zeros({3, 64, 64});
  const auto mask = torch::zeros({1, 64, 64});
  const std::vector<ControlImage> control{{.image = image}};
  struct {
    const char* package;
    StableDiffusionParams params;
    std::optional<double> guidance, strength, scale;
  } const cases[] = {
      {"sd1", {}, 7.5, {}, {}},
      {"sd1", {.image = image}, 7.5, 0.8, {}},
      {"sd1", {.image = image, .mask = mask}, 7.5, 1.0, {}},
      {"sd1", {.control_images = control}, 7.5, {}, 1.0},
      {"sd1", {.image = image, .control_images = control}, 7.5, 0.8, 0.8},
      {"sd1", {.image = image, .mask = mask, .control_images = control}, 7.5, 1.0, 0.5},
      {"sdxl", {}, 5.0, {}, {}},
      {"sdxl", {.image = image}, 5.0, 0.3, {}},
      {"sdxl", {.image = image, .mask = mask}, 7.5, 0.9999, {}},
      {"sdxl", {.control_images = control}, 5.0, {}, 1.0},
      {"sdxl", {.image = image, .control_images = control}, 5.0, 0.8, 0.8},
      {"sdxl", {.image = image, .mask = mask, .control_images = control}, 5.0, 0.9999, 1.0},
  };
  for (const auto& test : cases) {
    const auto pipe = StableDiffusionPipeline::load(kPackages / test.package);
    const auto resolved = pipe.resolve(test.params);
    EXPECT_EQ(resolved.guidance_scale, test.guidance);
    EXPECT_EQ(resolved.strength, test.strength);
    if (test.scale) {
      EXPECT_EQ(resolved.control_images.at(0).conditioning_scale, test.scale);
    }
  }
}

TEST_F(PipelineTest, AnImageOfLatentsIsNotEncodedAgain) {
  auto params = quick();
  const auto latents = pipe("red heart", params).latents;
  params.image = latents;
  params.strength = 0.5;
  const auto first = pipe("panda", params).latents;
  params.image = pipe.decode(latents);
  EXPECT_FALSE(pipe("panda", params).latents.equal(first));  // the encoder draws a sample, and rounds
  params.image = latents;
  EXPECT_TRUE(pipe("panda", params).latents.equal(first));
}

TEST_F(PipelineTest, ImagesThatDoNotFit) {
  const auto with_image = [](const torch::Tensor& image, auto set) {
    return [=](StableDiffusionParams& p) {
      p.image = image;
      set(p);
    };
  };
  const auto image = torch::full({3, 64, 64}, 0.5);
  const auto nothing = [](auto&) {};
  refuse(with_image(torch::zeros({64, 64}), nothing), {"image must hold", "[3, 64, 64]", "got Float [64, 64]"});
  refuse(with_image(torch::zeros({1, 64, 64}), nothing), {"image must hold", "got Float [1, 64, 64]"});
  refuse(with_image(torch::zeros({3, 64, 72}), nothing), {"[3, 64, 64], or several, got Float [3, 64, 72]"});
  refuse(with_image(torch::zeros({3, 64, 64}, torch::kByte), nothing), {"floating-point", "got Byte"});
  refuse(with_image(torch::zeros({2, 3, 64, 64}), nothing), {"a number that divides the 1 to make, got 2"});
  refuse(with_image(torch::zeros({1, 4, 9, 8}), nothing), {"image must hold", "[4, 8, 8]", "got Float [1, 4, 9, 8]"});
  refuse(with_image(image * 255, nothing), {"image must hold values from 0 to 1, got 127.5 to 127.5"});
  refuse(with_image(image - 1, nothing), {"from 0 to 1, got -0.5"});
  refuse(with_image(image * NAN, nothing), {"from 0 to 1, got"});
  for (const double strength : {0.0, -0.5, 1.5, std::nan("")})
    refuse(with_image(image, [=](auto& p) { p.strength = strength; }), {"strength must be above 0, to 1, got"});
  refuse(with_image(image, [](auto& p) { p.strength = 0.4; }),
         {"strength 0.4 leaves none of 2 steps; the least is 0.5"});
  refuse([](auto& p) { p.strength = 0.5; }, {"strength needs an image"});
  refuse([](auto& p) { p.mask = torch::zeros({1, 64, 64}); }, {"a mask needs an image"});
  for (const auto& mask : {torch::zeros({1, 32, 64}), torch::zeros({3, 64, 64}), torch::zeros({64, 64})})
    refuse(with_image(image, [=](auto& p) { p.mask = mask; }), {"mask must hold", "[1, 64, 64]", "got Float"});
  refuse(with_image(image,
                    [](auto& p) {
                      p.mask = torch::full({1, 64, 64}, 255.0);
                    }),
         {"mask must hold values from 0"});
  refuse(with_image(torch::zeros({2, 3, 64, 64}),
                    [](auto& p) {
                      p.mask = torch::zeros({3, 1, 64, 64});
                      p.num_images_per_prompt = 6;
                    }),
         {"as many masks as images, or one of either, got 3 and 2"});
}

TEST(PipelineSchedulers, BeginningsAndOutputsThatTheyDoNotHave) {
  const TemporaryFolder folder;
  const auto load = [&](const std::function<void(nlohmann::json&)>& edit) {
    return StableDiffusionPipeline::load(edited_package(folder, "one_layer", "scheduler/scheduler_config.json", edit));
  };
  const auto runge_kutta = load([](auto& json) {
    json["_class_name"] = "PNDMScheduler";
    json["skip_prk_steps"] = false;
  });
  StableDiffusionParams params{.num_inference_steps = 8, .image = torch::zeros({1, 4, 8, 8}), .strength = 0.5};
  expect_error<std::invalid_argument>([&] { runge_kutta.validate({"x"}, params); },
                                      {"Runge-Kutta steps can't begin at step 4, only at 0"});
  params.strength = 1;
  runge_kutta.validate({"x"}, params);
  for (const auto* kind : {"learned", "learned_range"})
    expect_error<std::runtime_error>(
        [&] {
          load([&](auto& json) {
            json["_class_name"] = "DDPMScheduler";
            json["variance_type"] = kind;
          });
        },
        {"scheduler_config.json", "DDPMScheduler asks for a UNet that has learned the variance"});
}

TEST(PipelineSchedulers, WhichLatentsTheyShare) {
  const TemporaryFolder folder;
  auto base = StableDiffusionPipeline::load(edited_package(folder, "one_layer", "scheduler/scheduler_config.json",
                                                           [](auto& json) { json["use_flow_sigmas"] = true; }));
  auto other = StableDiffusionPipeline::load(std::filesystem::path(DEEPCACHE_TEST_DATA) / "packages/one_layer");
  const std::vector<std::vector<const char*>> kinds{
      {"ddim", "plms"}, {"euler", "heun"}, {"unipc"}};  // with flow sigmas
  for (std::size_t i = 0; i < kinds.size(); ++i)
    for (const auto* mine : kinds[i])
      for (std::size_t j = 0; j < 2; ++j)
        for (const auto* theirs : kinds[j]) {
          base.set_scheduler(mine);
          other.set_scheduler(theirs);
          EXPECT_EQ(base.shares_latents_with(other), i == j) << mine << ", " << theirs;
        }
}

TEST_F(PipelineTest, PartsOfTheProcess) {
  const auto image = torch::zeros({1, 4, 8, 8});
  refuse([](auto& p) { p.denoising_start = 0.5; }, {"denoising_start needs an image"});
  refuse([](auto& p) { p.denoising_end = 1.0; }, {"denoising_end must be above 0 and below 1, got 1"});
  refuse([](auto& p) { p.denoising_end = 0.0; }, {"denoising_end must be above 0"});
  const auto between = [&](double start, double end) {
    return [=](StableDiffusionParams& p) {
      p.image = image;
      p.denoising_start = start;
      p.denoising_end = end;
    };
  };
  refuse(between(0.5, 0.5), {"denoising_start must be below denoising_end, got 0.5 and 0.5"});
  refuse(between(0.6, 0.7), {"none of 2 steps lies between denoising_start 0.6 and denoising_end 0.7"});
}

TEST(PipelineFamilies, PaintingModelsAndRefinersNeedPictures) {
  const auto folder = std::filesystem::path(DEEPCACHE_TEST_DATA) / "packages";
  const auto painting = StableDiffusionPipeline::load(folder / "sd1_inpaint");
  auto params = quick();
  expect_error<std::invalid_argument>([&] { painting.validate({"x"}, params); }, {"needs an image and a mask"});
  params.image = torch::zeros({1, 4, 8, 8});
  expect_error<std::invalid_argument>([&] { painting.validate({"x"}, params); }, {"needs a mask too"});
  params.mask = torch::zeros({1, 64, 64});
  expect_error<std::invalid_argument>([&] { painting.validate({"x"}, params); }, {"needs the image's pixels"});
  const auto refiner = StableDiffusionPipeline::load(folder / "sdxl_refiner");
  expect_error<std::invalid_argument>([&] { refiner.validate({"x"}, quick()); },
                                      {"refines pictures: it needs an image"});
  expect_error<std::invalid_argument>(
      [&] {
        auto second = quick();
        second.image = torch::zeros({3, 64, 64});
        second.strength = 0.5;
        second.prompt_2.emplace("x");
        refiner.validate({"x"}, second);
      },
      {"second text encoder's; this model has one"});
  EXPECT_TRUE(refiner.shares_latents_with(painting));
}

TEST(PipelineLoading, DeviceThatIsNotThere) {
  expect_error<std::invalid_argument>(
      [] {
        StableDiffusionPipeline::load(std::filesystem::path(DEEPCACHE_TEST_DATA) / "packages/sd1",
                                      {.device = torch::Device("cuda:99")});
      },
      {"no device \"cuda:99\""});
}

}  // namespace
}  // namespace deepcache::pipeline_test
