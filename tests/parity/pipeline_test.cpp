// Whole runs against diffusers' pipelines, uncached and under DeepCacheSDHelper (or a Python model of it), recorded by
// tools/references/pipelines.py, and by controlnet.py for those with ControlNets.

#include <ATen/Version.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cctype>
#include <deepcache/deepcache.hpp>
#include <functional>
#include <map>
#include <nlohmann/json.hpp>

#include "recorded.hpp"
#include "tensor_near.hpp"

namespace deepcache::pipeline_test {
namespace {

const std::filesystem::path kData = DEEPCACHE_TEST_DATA;

/// Of the recordings in a folder, with it.
std::vector<std::string> case_names(const std::string& folder) {
  std::vector<std::string> names;
  const auto recorded = read_json(kData / folder / "recorded.json");
  for (const auto& entry : recorded.at("cases").items()) names.push_back(folder + "/" + entry.key());
  return names;
}

StableDiffusionPipeline& pipeline(const std::string& variant, const std::vector<std::string>& controlnets = {}) {
  static std::map<std::vector<std::string>, StableDiffusionPipeline> pipelines;  // loaded once
  auto key = controlnets;
  key.push_back(variant);
  const auto found = pipelines.find(key);
  if (found != pipelines.end()) return found->second;
  LoadOptions options;
  for (const auto& name : controlnets) options.controlnets.push_back(kData / "packages" / name);
  return pipelines.emplace(key, StableDiffusionPipeline::load(kData / "packages" / variant, options)).first->second;
}

StableDiffusionPipeline& pipeline_of(const Recorded& recorded) {
  std::vector<std::string> controlnets;
  if (recorded.has("controls"))
    for (const auto& control : recorded.list("controls")) controlnets.push_back(control.text("package"));
  return pipeline(recorded.text("variant"), controlnets);
}

/// Further arguments of Python's pipeline, under their names there.
void read_options(const Recorded& options, StableDiffusionParams& params) {
  const auto size = [&](const char* key) {
    const auto& sides = options.at(key).toTupleRef().elements();
    return ImageSize{.height = sides.at(0).toInt(), .width = sides.at(1).toInt()};
  };
  std::map<std::string, std::function<void(const char*)>> readers{
      {"guidance_rescale", [&](const char* key) { params.guidance_rescale = options.number(key); }},
      {"clip_skip", [&](const char* key) { params.clip_skip = options.integer(key); }},
      {"prompt_weighting", [&](const char* key) { params.prompt_weighting = options.boolean(key); }},
      {"max_prompt_chunks", [&](const char* key) { params.max_prompt_chunks = options.integer(key); }},
      {"prompt_2", [&](const char* key) { params.prompt_2 = options.text(key); }},
      {"negative_prompt_2", [&](const char* key) { params.negative_prompt_2 = options.text(key); }},
      {"original_size", [&](const char* key) { params.original_size = size(key); }},
      {"target_size", [&](const char* key) { params.target_size = size(key); }},
      {"crops_coords_top_left", [&](const char* key) { params.crops_coords_top_left = size(key); }},
      {"negative_original_size", [&](const char* key) { params.negative_original_size = size(key); }},
      {"negative_target_size", [&](const char* key) { params.negative_target_size = size(key); }},
      {"negative_crops_coords_top_left", [&](const char* key) { params.negative_crops_coords_top_left = size(key); }},
  };
  const auto number = [&](const char* key, auto& param) {
    readers.emplace(key, [&](const char* name) { param = options.number(name); });
  };
  number("strength", params.strength);
  number("denoising_start", params.denoising_start);
  number("denoising_end", params.denoising_end);
  number("aesthetic_score", params.aesthetic_score);
  number("negative_aesthetic_score", params.negative_aesthetic_score);
  for (const auto& key : options.keys()) readers.at(key)(key.c_str());
}

/// Bytes to values from 0 to 1; latents as they are.
torch::Tensor picture(const Recorded& recorded, const char* key) {
  const auto values = recorded.tensor(key);
  return values.scalar_type() == torch::kByte ? values.to(torch::kFloat) / 255 : values;
}

StableDiffusionParams params_of(const Recorded& recorded) {
  std::vector<std::uint64_t> seeds{static_cast<std::uint64_t>(recorded.integer("seed"))};
  if (recorded.has("seeds")) {
    const auto each = recorded.integers("seeds");
    seeds.assign(each.begin(), each.end());
  }
  StableDiffusionParams params{.num_inference_steps = recorded.integer("num_inference_steps"),
                               .height = recorded.integer("height") * 8,
                               .width = recorded.integer("width") * 8,
                               .seeds = seeds,
                               .eta = recorded.has("eta") ? recorded.number("eta") : 0.0};
  if (recorded.has("guidance_scale")) params.guidance_scale = recorded.number("guidance_scale");
  if (recorded.has("input_image")) params.image = picture(recorded, "input_image");
  if (recorded.has("tiling")) params.vae = {.slicing = true, .tiling = true};
  if (recorded.has("input_mask")) params.mask = picture(recorded, "input_mask");
  if (const auto negative = recorded.text("negative_prompt"); !negative.empty()) params.negative_prompt = negative;
  if (recorded.has("options")) read_options(Recorded(recorded.at("options")), params);
  if (recorded.has("controls"))
    for (const auto& control : recorded.list("controls"))  // whose values fill 8x8 pixels each
      params.control_images.push_back(
          {.image = picture(control, "image").repeat_interleave(8, 2).repeat_interleave(8, 3),
           .conditioning_scale = control.number("conditioning_scale"),
           .guidance_start = control.number("guidance_start"),
           .guidance_end = control.number("guidance_end")});
  return params;
}

/// A short name of the library's, in capitals for the two that Python's DeepCache is mostly run with.
std::string scheduler_of(const Recorded& recorded) {
  auto name = recorded.text("scheduler");
  std::ranges::transform(name, name.begin(), [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  return name;
}

std::vector<std::string> prompts_of(const Recorded& recorded) {
  std::vector<std::string> prompts;
  for (const c10::IValue& prompt : recorded.at("prompts").toListRef()) prompts.push_back(prompt.toStringRef());
  return prompts;
}

double relative_difference(const torch::Tensor& actual, const torch::Tensor& expected) {
  const auto exact = expected.to(torch::kDouble);
  return ((actual.to(torch::kDouble) - exact).norm() / exact.norm()).item<double>();
}

struct Tolerance {
  double latents;  // relative, by norm
  double image;    // of any value in [0, 1]
};

/// bfloat16 has 8 bits, and where a sum is rounded is up to the machine's kernels. With those of the recording machine
/// the latents are Python's bit for bit (the picture is off by 0.002: Python maps it to [0, 1] in bfloat16 too). With
/// others (ATen's plain ones or AVX2's, oneDNN's or none) Python itself is off its recorded latents by 0.019 to 0.030
/// and off its picture by 0.023 to 0.033, little more than off its float32 run. Caching moves the latents by 0.17.
Tolerance tolerance(torch::Dtype dtype) {
  if (dtype == torch::kBFloat16) return {.latents = 6e-2, .image = 7e-2};
  if (dtype == torch::kHalf) return {.latents = 6e-2 / 8, .image = 7e-2 / 8};  // 11 bits
  return {.latents = 1e-4, .image = 1e-4};
}

class PipelineParity : public testing::TestWithParam<std::string> {};

TEST_P(PipelineParity, EveryStep) {
  const auto recorded = Recorded::load(kData / (GetParam() + ".pt"));
  auto& pipe = pipeline_of(recorded);
  pipe.set_scheduler(scheduler_of(recorded));

  Helper helper(pipe);
  const auto interval = recorded.integer("cache_interval");
  if (interval > 0) {
    helper.set_params(
        {.cache_interval = interval,
         .cache_branch_id = recorded.integer("cache_branch_id"),
         .forecast_order = 0,
         .step_counting = recorded.text("count") == "calls" ? StepCounting::kCalls : StepCounting::kTimesteps});
    helper.enable();
  }
  auto params = params_of(recorded);
  std::vector<torch::Tensor> steps;
  std::vector<double> timesteps;
  params.callback = [&](const PipelineStep& step) {
    steps.push_back(step.latents);
    timesteps.push_back(step.timestep);
    return true;
  };
  const auto result = pipe(prompts_of(recorded), params);  // noise from the seed, as Python drew it

  EXPECT_EQ(timesteps, recorded.numbers("timesteps"));
  const auto expected = recorded.tensor("step_latents");
  const auto allowed = tolerance(expected.scalar_type());
  EXPECT_EQ(result.latents.scalar_type(), expected.scalar_type());
  ASSERT_EQ(static_cast<std::int64_t>(steps.size()), expected.size(0));
  for (std::int64_t i = 0; i < expected.size(0); ++i)
    EXPECT_LT(relative_difference(steps[static_cast<std::size_t>(i)], expected[i]), allowed.latents) << "step " << i;
  EXPECT_LT(relative_difference(result.latents, recorded.tensor("latents")), allowed.latents);
  const auto fields = recorded.at("full_calls").toListRef();
  if (interval > 0) {
    std::vector<std::int64_t> full_calls, expected_full_calls;
    const auto stats = helper.stats();
    for (std::size_t i = 0; i < stats.steps.size(); ++i)
      if (stats.steps[i].full) full_calls.push_back(static_cast<std::int64_t>(i));
    for (const c10::IValue& call : fields) expected_full_calls.push_back(call.toInt());
    EXPECT_EQ(full_calls, expected_full_calls);
  }
  if (recorded.has("image")) expect_tensor_near(result.images, recorded.tensor("image"), allowed.image);
}

std::string name_of(const testing::TestParamInfo<std::string>& test) {
  return std::filesystem::path(test.param).filename();
}

INSTANTIATE_TEST_SUITE_P(Recorded, PipelineParity, testing::ValuesIn(case_names("pipelines")), name_of);
INSTANTIATE_TEST_SUITE_P(ControlNet, PipelineParity, testing::ValuesIn(case_names("controlnet")), name_of);

TEST(PipelineParityInputs, GivenLatentsGiveWhatTheirSeedGives) {
  const auto recorded = Recorded::load(kData / "pipelines/sd1_ddim_3x13x17_8steps_uncached.pt");
  auto& pipe = pipeline("sd1");
  pipe.set_scheduler("ddim");
  auto params = params_of(recorded);
  const auto from_seed = pipe(prompts_of(recorded), params).latents;
  const auto noise = recorded.tensor("init_latents");
  params.latents = NoiseGenerator(params.seeds).randn(noise.sizes(), noise.options());
  params.seeds = {99};
  EXPECT_TRUE(pipe(prompts_of(recorded), params).latents.equal(from_seed));
}

TEST(PipelineParityInputs, ARefinerGoesOnWithLatentsOfTheBase) {
  const auto of_base = Recorded::load(kData / "pipelines/sdxl_ddim_1x8x8_8steps_denoising_end_interval2_branch0.pt");
  const auto of_refiner =
      Recorded::load(kData / "pipelines/sdxl_refiner_ddim_1x8x8_8steps_img2img_handover_interval2_branch0.pt");
  auto& base = pipeline("sdxl");
  auto& refiner = pipeline("sdxl_refiner");
  ASSERT_TRUE(base.shares_latents_with(refiner));
  Helper base_helper(base), refiner_helper(refiner);
  for (auto* helper : {&base_helper, &refiner_helper}) {
    helper->set_params({.cache_interval = 2, .forecast_order = 0});
    helper->enable();
  }
  base.set_scheduler("ddim");
  refiner.set_scheduler("ddim");
  auto params = params_of(of_base);
  params.decode = false;
  const auto latents = base(prompts_of(of_base), params).latents;
  params = params_of(of_refiner);
  params.image = latents;
  EXPECT_LT(relative_difference(refiner(prompts_of(of_refiner), params).latents, of_refiner.tensor("latents")), 1e-4);
}

/// With kernels other than the recording machine's (AVX2 and up), the last bits of a normal may differ, in Python too.
double noise_tolerance(torch::Dtype dtype) {
  const bool same_kernels = at::get_cpu_capability().starts_with("AVX");
  return same_kernels ? 0 : dtype == torch::kBFloat16 ? 2e-2 : 2e-6;
}

TEST(PipelineParityInputs, InitialNoiseIsPythonsBitForBit) {
  for (const auto* name : {"sd1_ddim_1x8x8_8steps_uncached", "sd1_ddim_3x13x17_8steps_uncached",
                           "sd1_plms_2x8x8_8steps_2seeds_uncached", "sd1_bfloat16_ddim_1x8x8_8steps_uncached"}) {
    const auto recorded = Recorded::load(kData / "pipelines" / (std::string(name) + ".pt"));
    const auto expected = recorded.tensor("init_latents");
    NoiseGenerator noise(params_of(recorded).seeds);
    SCOPED_TRACE(name);
    expect_tensor_near(noise.randn(expected.sizes(), expected.options()), expected,
                       noise_tolerance(expected.scalar_type()));
  }
}

}  // namespace
}  // namespace deepcache::pipeline_test
