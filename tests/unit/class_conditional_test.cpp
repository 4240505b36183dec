#include <gtest/gtest.h>

#include <cmath>
#include <deepcache/deepcache.hpp>
#include <nlohmann/json.hpp>

#include "edited_package.hpp"
#include "expect_error.hpp"
#include "tensor_near.hpp"

namespace deepcache::class_conditional_test {
namespace {

const std::filesystem::path kPackages = std::filesystem::path(DEEPCACHE_TEST_DATA) / "packages";

/// Two steps of 16x16 pixels: quick.
ClassConditionalParams quick() {
  return {.num_inference_steps = 2, .height = 16, .width = 16};
}

class ClassConditionalTest : public testing::Test {
 protected:
  void refuse(const std::function<void(ClassConditionalParams&)>& edit, const std::vector<std::string>& parts) {
    auto params = quick();
    edit(params);
    expect_error<std::invalid_argument>([&] { pipe(3, params); }, parts);
    expect_error<std::invalid_argument>([&] { pipe.validate({3}, params); }, parts);
  }
  ClassConditionalPipeline pipe = ClassConditionalPipeline::load(kPackages / "ldm");
};

TEST_F(ClassConditionalTest, ShapesAndRanges) {
  EXPECT_EQ(pipe.model_type(), "ldm");
  EXPECT_EQ(pipe.scheduler_name(), "CompVisDDIMScheduler");
  EXPECT_EQ(pipe.num_classes(), 11);
  EXPECT_EQ(pipe.vae_scale_factor(), 2);
  const auto result = pipe({3, 4}, {.num_images_per_label = 2, .num_inference_steps = 2});
  EXPECT_EQ(result.images.sizes(), (torch::IntArrayRef{4, 3, 32, 32}));  // the model's own size
  EXPECT_EQ(result.images.scalar_type(), torch::kFloat);
  EXPECT_GE(result.images.min().item<float>(), 0);
  EXPECT_LE(result.images.max().item<float>(), 1);
  EXPECT_EQ(result.latents.sizes(), (torch::IntArrayRef{4, 3, 16, 16}));
  EXPECT_EQ(pipe.latent_shape(2, {.num_images_per_label = 2}), (std::vector<std::int64_t>{4, 3, 16, 16}));
  EXPECT_FALSE(result.cancelled);
  auto params = quick();
  params.decode = false;
  const auto latents_only = pipe(3, params);
  EXPECT_FALSE(latents_only.images.defined());
  params.decode = true;
  EXPECT_TRUE(pipe.decode(latents_only.latents).equal(pipe(3, params).images));
}

TEST_F(ClassConditionalTest, ValidatingDuringARunLeavesItAlone) {
  auto params = quick();
  const auto expected = pipe(3, params).latents;
  params.callback = [&](const PipelineStep&) {
    auto other = quick();
    other.num_inference_steps = 7;
    pipe.validate({3}, other);
    return true;
  };
  EXPECT_TRUE(pipe(3, params).latents.equal(expected));
}

TEST_F(ClassConditionalTest, LatentsThatCanNotBeDecoded) {
  for (const auto& latents :
       {torch::Tensor(), torch::zeros({3, 8, 8}), torch::zeros({1, 4, 8, 8}), torch::zeros({1, 3, 8, 8}, torch::kLong)})
    expect_error<std::invalid_argument>([&] { pipe.decode(latents); }, {"latents must be", "[B, 3, h, w], got"});
}

TEST_F(ClassConditionalTest, NetworksOfOtherModels) {
  const TemporaryFolder folder;
  const auto refuse_config = [&](const char* file, const char* key, const std::vector<std::string>& parts) {
    const auto package = edited_package(folder, "ldm", file, [key](auto& json) { json[key] = 5; });
    expect_error<std::runtime_error>([&] { ClassConditionalPipeline::load(package); }, parts);
  };
  refuse_config("unet/config.json", "in_channels", {"unet/config.json", "in_channels must be the VAE's 3, got 5"});
  refuse_config("unet/config.json", "cross_attention_dim", {"must be the class embedder's 16, got 5"});
}

TEST_F(ClassConditionalTest, LabelsOutOfRange) {
  for (const std::int64_t label : {-1, 11, 1000})
    expect_error<std::invalid_argument>(
        [&] {
          pipe({3, label}, quick());
        },
        {"class labels must be from 0 to 10", "got " + std::to_string(label)});
  expect_error<std::invalid_argument>([&] { pipe(std::vector<std::int64_t>{}, quick()); },
                                      {"one class label or more, got none"});
  EXPECT_NO_THROW(pipe.validate({0, 10}, quick()));
}

TEST_F(ClassConditionalTest, ParametersOutOfRange) {
  refuse([](auto& p) { p.num_inference_steps = 0; }, {"inference steps must be from 1 to the 1000", "not 0"});
  refuse([](auto& p) { p.num_inference_steps = 300; }, {"can't make 300 steps", "begin at timestep 1000", "is 250"});
  refuse([](auto& p) { p.width = 15; }, {"width must be a positive multiple of 2", "the nearest to 15 are 14 and 16"});
  refuse([](auto& p) { p.height = -2; }, {"height must be a positive multiple of 2", "nearest to -2"});
  refuse([](auto& p) { p.num_images_per_label = 0; }, {"num_images_per_label must be 1 or above, got 0"});
  refuse([](auto& p) { p.guidance_scale = std::nan(""); }, {"guidance_scale must be a finite number"});
  refuse([](auto& p) { p.eta = 1.5; }, {"eta must be 0 to 1, got 1.5"});
  refuse([](auto& p) { p.eta = -0.1; }, {"eta must be 0 to 1, got -0.1"});
  refuse([](auto& p) { p.seeds = {}; }, {"one seed, or one for each of the batch's 1, got 0"});
  refuse([](auto& p) { p.seeds = {1, 2}; }, {"got 2"});
  refuse([](auto& p) { p.latents = torch::ones({1, 3, 8, 9}); }, {"shape [1, 3, 8, 8], got Float [1, 3, 8, 9]"});
  refuse([](auto& p) { p.latents = torch::ones({1, 3, 8, 8}, torch::kLong); }, {"floating-point", "got Long"});
  pipe.set_scheduler("plms");
  refuse([](auto& p) { p.eta = 0.5; }, {"eta is an option of DDIM; PNDMScheduler has none, got 0.5"});
  expect_error<std::invalid_argument>([&] { pipe.set_scheduler("magic"); }, {"magic", "compvis_ddim"});
}

TEST_F(ClassConditionalTest, SeedsOneForTheBatchOrOneForEachImage) {
  auto params = quick();
  params.seeds = {5, 6};
  params.eta = 1;
  const auto both = pipe({3, 4}, params).latents;
  params.seeds = {6};
  expect_tensor_near(pipe(4, params).latents[0], both[1], 1e-4);
}

TEST_F(ClassConditionalTest, GivenLatentsGiveWhatTheirSeedGives) {
  auto params = quick();
  const auto from_seed = pipe(3, params).latents;
  params.latents = NoiseGenerator(params.seeds).randn({1, 3, 8, 8}, torch::kFloat);
  params.seeds = {99};
  EXPECT_TRUE(pipe(3, params).latents.equal(from_seed));
}

TEST_F(ClassConditionalTest, NoGuidanceIsHalfTheWork) {
  Helper helper(pipe);
  helper.set_params({.cache_interval = 2});
  helper.enable();
  auto params = quick();
  params.guidance_scale = 1;
  pipe(3, params);
  const auto alone = helper.stats().full_step.weights;
  params.guidance_scale = 0.5;
  pipe(3, params);
  EXPECT_EQ(helper.stats().full_step.weights, 2 * alone);
}

TEST_F(ClassConditionalTest, GuidanceLeadsAwayFromTheLastClass) {
  auto params = quick();
  params.guidance_scale = 3;
  const auto guided = pipe(10, params).latents;  // from the class that it leads away from
  params.guidance_scale = 1;
  expect_tensor_near(pipe(10, params).latents, guided, 1e-3);
  EXPECT_GT((pipe(3, params).latents - guided).norm().item<float>(), 1e-1);
}

TEST_F(ClassConditionalTest, CallbackSeesEachStepAndMayCancel) {
  auto params = quick();
  params.num_inference_steps = 7;  // of which CompVis's DDIM makes 8
  std::vector<std::int64_t> steps;
  params.callback = [&](const PipelineStep& step) {
    EXPECT_EQ(step.num_steps, 8);
    steps.push_back(step.step_index);
    return step.step_index < 2;
  };
  const auto result = pipe(3, params);
  EXPECT_EQ(steps, (std::vector<std::int64_t>{0, 1, 2}));
  EXPECT_TRUE(result.cancelled);
  EXPECT_FALSE(result.images.defined());
}

TEST_F(ClassConditionalTest, OtherSchedulersReadThePackagesSettings) {
  auto params = quick();
  params.num_inference_steps = 10;
  const auto own = pipe(3, params).latents;
  pipe.set_scheduler("ddim");  // where the stride divides the timesteps, it is the same but for rounding
  const auto other = pipe(3, params).latents;
  EXPECT_FALSE(other.equal(own));
  expect_tensor_near(other, own, 1e-3 * own.abs().max().item<double>());
}

TEST(ClassConditionalLoading, PackagesThatItDoesNotKnow) {
  expect_error<std::runtime_error>([] { ClassConditionalPipeline::load(kPackages / "one_layer"); },
                                   {"family \"stable-diffusion\"", "this pipeline runs class-conditional"});
  expect_error<std::runtime_error>([] { StableDiffusionPipeline::load(kPackages / "ldm"); },
                                   {"family \"class-conditional\"", "stable-diffusion"});
  expect_error<std::invalid_argument>(
      [] { ClassConditionalPipeline::load(kPackages / "ldm", {.controlnets = {kPackages / "controlnet_sd1"}}); },
      {"ControlNets go with Stable Diffusion only; got 1"});
  expect_error<std::invalid_argument>(
      [] { ClassConditionalPipeline::load(kPackages / "ldm", {.device = torch::Device("cuda:99")}); },
      {"no device \"cuda:99\""});
  const TemporaryFolder folder;
  const auto without_classes =
      edited_package(folder, "ldm", "class_embedder/config.json", [](auto& json) { json.erase("n_classes"); });
  expect_error<std::runtime_error>([&] { ClassConditionalPipeline::load(without_classes); },
                                   {"class_embedder/config.json", "n_classes"});
  const auto one_class =
      edited_package(folder, "ldm", "class_embedder/config.json", [](auto& json) { json["n_classes"] = 1; });
  expect_error<std::runtime_error>([&] { ClassConditionalPipeline::load(one_class); },
                                   {"class_embedder/config.json", "n_classes", "2"});
}

TEST(ClassConditionalLoading, UNetsWithInputsThatItDoesNotKnow) {
  const TemporaryFolder folder;
  const auto package = edited_package(folder, "ldm", "unet/config.json", [](auto&) {});
  std::filesystem::copy_file(kPackages / "sdxl/unet/model.pt", package / "unet/model.pt",
                             std::filesystem::copy_options::overwrite_existing);
  auto manifest = read_json(package / "deepcache.json");
  const auto file = package / "unet/model.pt";
  manifest["files"]["unet/model.pt"] = {{"bytes", std::filesystem::file_size(file)}, {"sha256", sha256(file)}};
  write_file(package / "deepcache.json", manifest.dump());
  expect_error<std::runtime_error>(
      [&] { ClassConditionalPipeline::load(package); },
      {"the UNet's inputs must be sample, timestep, encoder_hidden_states, got", "text_embeds"});
}

// CompVis's DDIM on its own; whole trajectories are in the parity tests.

constexpr const char* kCompVis = R"({"_class_name": "CompVisDDIMScheduler"})";

TEST(CompVisDDIM, NumbersOfStepsThatItCannotMake) {
  const auto scheduler = Scheduler::from_json(kCompVis);
  for (const std::int64_t steps : {3, 300, 501, 1000})
    expect_error<std::invalid_argument>(
        [&] { scheduler->set_timesteps(steps); },
        {"can't make " + std::to_string(steps) + " steps", "timestep 1000", "the last is 999", "next number below"});
  expect_error<std::invalid_argument>([&] { scheduler->set_timesteps(1000); }, {"below that it can make is 500"});
  scheduler->set_timesteps(150);
  EXPECT_EQ(scheduler->timesteps().size(0), 167);
}

TEST(CompVisDDIM, DrawsNoiseEvenIfEtaIsZero) {
  const auto scheduler = Scheduler::from_json(kCompVis);
  scheduler->set_timesteps(1);
  const auto sample = torch::ones({1, 3, 4, 4});
  NoiseGenerator noise({7}), same({7});
  StepOptions options;
  options.noise = &noise;
  const auto with_noise = scheduler->step(sample / 2, 0, sample, options);
  same.randn(sample.sizes(), sample.options());
  EXPECT_TRUE(noise.randn({4}, torch::kFloat).equal(same.randn({4}, torch::kFloat)));
  EXPECT_TRUE(scheduler->step(sample / 2, 0, sample).equal(with_noise));  // which no generator needs
  options = {.eta = 1.0};
  expect_error<std::invalid_argument>([&] { scheduler->step(sample, 0, sample, options); }, {"noise must be set"});
}

TEST(CompVisDDIM, UsesTheModelOutputAsItIs) {
  const auto scheduler = Scheduler::from_json(kCompVis);
  scheduler->set_timesteps(2);
  const auto sample = torch::ones({1, 3, 4, 4});
  StepOptions options;
  const auto plain = scheduler->step(sample / 2, 0, sample);
  options.use_clipped_model_output = true;
  EXPECT_TRUE(scheduler->step(sample / 2, 0, sample, options).equal(plain));  // nothing is clipped
}

TEST(CompVisDDIM, SettingsThatItDoesNotHave) {
  const auto refuse = [](const char* settings, const std::vector<std::string>& parts) {
    expect_error<std::runtime_error>([&] { Scheduler::from_json(settings, "compvis_ddim"); }, parts);
  };
  refuse(R"({"beta_schedule": "squaredcos_cap_v2"})", {"beta_schedule", "linear or scaled_linear"});
  refuse(R"({"num_train_timesteps": 2, "trained_betas": [0.1, 0.2]})", {"without \"trained_betas\""});
  refuse(R"({"rescale_betas_zero_snr": true})", {"rescale_betas_zero_snr"});
  refuse(R"({"thresholding": true})", {"thresholding"});
  refuse(R"({"prediction_type": "v_prediction"})", {"prediction_type", "v_prediction", "epsilon"});
}

}  // namespace
}  // namespace deepcache::class_conditional_test
