#include "core/aoti_backend.hpp"

#include <caffe2/serialize/inline_container.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <deepcache/deepcache.hpp>
#include <functional>
#include <nlohmann/json.hpp>
#include <string>
#include <thread>

#include "expect_error.hpp"
#include "io/files.hpp"
#include "networks.hpp"
#include "temporary_folder.hpp"

namespace deepcache {
namespace {

// Written by tests/python/test_export_aoti.py: a small Stable Diffusion whose UNet is there traced, and compiled at
// branch 1 for two samples of 8x8.
const std::filesystem::path kPackage = DEEPCACHE_COMPILED_PACKAGE;
const auto kTraced = kPackage / "unet/model.pt";
const auto kCompiled = kPackage / "unet/model.pt2";
constexpr const char* kDescription = "extra/deepcache.json";

UNet compiled_unet() {
  return UNet::load(kCompiled, {.dtype = torch::kFloat, .trust_native_code = true});
}

std::vector<c10::IValue> inputs(int seed = 0, std::int64_t batch = 2, std::int64_t side = 8) {
  return unet_inputs("sd1", seed, batch, side, side);
}

double difference(const torch::Tensor& actual, const torch::Tensor& expected) {
  return ((actual - expected).norm() / expected.norm()).item<double>();
}

std::vector<torch::Tensor> run(const UNet& unet, int steps) {
  unet.begin_run();
  std::vector<torch::Tensor> outputs;
  for (int i = 0; i < steps; ++i) outputs.push_back(first_tensor(unet.forward(inputs(i))));
  return outputs;
}

TEST(AotiBackend, CachedAndUncachedRunsAreThoseOfTheTracedUNet) {
  const auto traced = UNet::load(kTraced), compiled = compiled_unet();
  const auto uncached = run(traced, 3);
  for (const int interval : {1, 2, 3}) {
    Helper expected(traced), actual(compiled);
    for (auto* helper : {&expected, &actual}) {
      helper->set_params({.cache_interval = interval, .cache_branch_id = 1});
      helper->enable();
    }
    const auto want = run(traced, 8), got = run(compiled, 8);
    for (std::size_t i = 0; i < want.size(); ++i) EXPECT_LT(difference(got[i], want[i]), 1e-4) << interval << " " << i;
    const auto want_stats = expected.stats(), got_stats = actual.stats();
    EXPECT_EQ(got_stats.cached_steps, want_stats.cached_steps);
    EXPECT_EQ(got_stats.cache_bytes, want_stats.cache_bytes);
    EXPECT_EQ(got_stats.macs_saved, want_stats.macs_saved);
    EXPECT_EQ(difference(want[1], uncached[1]) > 1e-3, interval > 1);  // or the comparison would show nothing
  }
}

TEST(AotiBackend, DisabledOrIntervalOneIsBitEqualToTheUNet) {
  const auto unet = compiled_unet();
  const auto expected = run(unet, 3);
  Helper helper(unet);
  helper.set_params({.cache_interval = 1, .cache_branch_id = 1});
  helper.enable();
  const auto enabled = run(unet, 3);
  helper.disable();
  const auto disabled = run(unet, 3);
  for (std::size_t i = 0; i < expected.size(); ++i) {
    EXPECT_TRUE(enabled[i].equal(expected[i])) << i;
    EXPECT_TRUE(disabled[i].equal(expected[i])) << i;
  }
}

TEST(AotiBackend, ACachedStepOnEqualInputIsAFullOne) {
  const auto unet = compiled_unet();
  Helper helper(unet);
  helper.set_params({.cache_interval = 2, .cache_branch_id = 1});
  helper.enable();
  const auto full = first_tensor(unet.forward(inputs())), cached = first_tensor(unet.forward(inputs()));
  EXPECT_EQ(helper.stats().cached_steps, 1);
  EXPECT_LT(difference(cached, full), 1e-5);
}

TEST(AotiBackend, NamesAndProfilesAreThoseOfTheTracedUNet) {
  const auto traced = UNet::load(kTraced), compiled = compiled_unet();
  EXPECT_EQ(compiled.input_names(), traced.input_names());
  EXPECT_EQ(compiled.branch_names(), traced.branch_names());
  EXPECT_EQ(compiled.device(), torch::kCPU);
  const auto expected = traced.profile(inputs()), actual = compiled.profile(shapes_of(inputs()));
  ASSERT_EQ(actual.size(), expected.size());
  for (std::size_t i = 0; i < expected.size(); ++i) {
    EXPECT_EQ(actual[i].cache_branch_id, expected[i].cache_branch_id);
    EXPECT_EQ(actual[i].name, expected[i].name);
    EXPECT_EQ(actual[i].feature_shape, expected[i].feature_shape);
    EXPECT_EQ(actual[i].feature_bytes, expected[i].feature_bytes);
    EXPECT_EQ(actual[i].full_step, expected[i].full_step) << i;
    EXPECT_EQ(actual[i].cached_step, expected[i].cached_step) << i;
  }
}

TEST(AotiBackend, AnyKindOfTimestepAndAnyStrides) {
  const auto unet = compiled_unet();
  auto values = inputs();
  const auto expected = first_tensor(unet.forward(values));
  for (const auto dtype : {torch::kFloat, torch::kDouble, torch::kInt}) {
    values[1] = torch::tensor(500).to(dtype);
    EXPECT_TRUE(first_tensor(unet.forward(values)).equal(expected)) << dtype;
  }
  values[0] = values[0].toTensor().contiguous(torch::MemoryFormat::ChannelsLast);
  values[2] = values[2].toTensor().transpose(1, 2).contiguous().transpose(1, 2);
  EXPECT_TRUE(first_tensor(unet.forward(values)).equal(expected));
}

TEST(AotiBackend, ThreadsShareIt) {
  const auto unet = compiled_unet();
  const auto expected = run(unet, 6);
  std::vector<torch::Tensor> there;
  std::thread thread([&] { there = run(unet.share_weights(), 6); });
  const auto here = run(unet.share_weights(), 6);
  thread.join();
  for (std::size_t i = 0; i < expected.size(); ++i) {
    EXPECT_TRUE(here[i].equal(expected[i])) << i;
    EXPECT_TRUE(there[i].equal(expected[i])) << i;
  }
}

TEST(AotiBackend, OtherBranchesAreRefusedWhereTheyAreAskedFor) {
  const auto unet = compiled_unet();
  Helper helper(unet);
  helper.set_params({.cache_interval = 2, .cache_module = "up_blocks.1.resnets.0"});  // is branch 1
  helper.enable();
  const auto before = run(unet, 2);
  for (const std::int64_t branch : {0, 2})
    expect_error<std::invalid_argument>(
        [&] { helper.set_params({.cache_interval = 3, .cache_branch_id = branch}); },
        {"compiled with cache_branch_id 1 (\"up_blocks.1.resnets.0\") alone", "got " + std::to_string(branch)});
  expect_error<std::invalid_argument>([&] { helper.set_params({.cache_branch_id = 4}); }, {"must be 0 to 3", "got 4"});
  EXPECT_EQ(helper.params().cache_interval, 2);
  const auto after = run(unet, 2);
  EXPECT_TRUE(after[1].equal(before[1]));
  EXPECT_EQ(helper.stats().cached_steps, 1);
  helper.set_params({.cache_interval = 1, .cache_branch_id = 2});  // where nothing is cached, none is asked for
  EXPECT_TRUE(run(unet, 1)[0].equal(before[0]));
}

TEST(AotiBackend, WrongInputs) {
  const auto unet = compiled_unet();
  const auto refuse = [&](const std::vector<c10::IValue>& values, const std::vector<std::string>& parts) {
    expect_error<std::invalid_argument>([&] { unet.forward(values); }, parts);
  };
  const std::string allowed = "compiled for \"sample\" Float [2, 4, 8, 8] alone";
  refuse(inputs(0, 1), {allowed, "got Float [1, 4, 8, 8]"});
  refuse(inputs(0, 2, 16), {allowed, "got Float [2, 4, 16, 16]"});
  auto values = inputs();
  values[0] = values[0].toTensor().to(torch::kBFloat16);
  refuse(values, {allowed, "got BFloat16 [2, 4, 8, 8]"});
  values[0] = c10::IValue(1.5);
  refuse(values, {allowed, "got Double"});
  values = inputs();
  values[1] = torch::full({2}, 500.0F);
  refuse(values, {"compiled for \"timestep\" Float [] alone", "got Float [2]"});
  values.pop_back();
  refuse(values, {"takes 3 inputs (sample, timestep, encoder_hidden_states), got 2"});
  refuse(shapes_of(inputs()), {"compiled for the device \"cpu\"; \"sample\" is on \"meta\""});
  expect_error<std::invalid_argument>([&] { unet.profile(inputs(0, 1)); }, {allowed});
}

TEST(AotiBackend, ControlNets) {
  expect_error<std::invalid_argument>(
      [&] { compiled_unet().with_controlnet_files({kTraced}, torch::kFloat); },
      {kTraced.string(), "ControlNets become part of a traced UNet, and this one is compiled", "got 1"});
}

TEST(AotiBackend, IsLoadedOnlyIfItIsTrusted) {
  expect_error<std::invalid_argument>([] { UNet::load(kCompiled); },
                                      {kCompiled.string(), "native code", "trust_native_code"});
  expect_error<std::invalid_argument>([] { Helper helper(kCompiled); }, {"trust_native_code"});
}

TEST(AotiBackend, OtherDevicesAndDtypes) {
  expect_error<std::invalid_argument>([] { AotiBackend(kCompiled, torch::kCUDA, std::nullopt); },
                                      {kCompiled.string(), "compiled for the device \"cpu\", got \"cuda\""});
  expect_error<std::invalid_argument>(
      [] { UNet::load(kCompiled, {.dtype = torch::kBFloat16, .trust_native_code = true}); },
      {kCompiled.string(), "compiled for Float, got BFloat16"});
}

class DamagedFile : public testing::Test {
 protected:
  void refuse(const std::vector<std::string>& parts) {
    expect_error<std::runtime_error>([&] { UNet::load(file, {.trust_native_code = true}); }, parts);
  }

  /// An archive of one record.
  void write(const std::string& name, const std::string& content) {
    caffe2::serialize::PyTorchStreamWriter archive(file.string());
    archive.writeRecord(name, content.data(), content.size());
    archive.writeEndOfFile();
  }

  /// An archive that has the compiled UNet's description, changed, and no code.
  void describe(const std::function<void(nlohmann::json&)>& edit) {
    caffe2::serialize::PyTorchStreamReader archive(kCompiled.string());
    const auto [data, size] = archive.getRecord(kDescription);
    auto json = nlohmann::json::parse(std::string(static_cast<const char*>(data.get()), size));
    edit(json);
    write(kDescription, json.dump());
  }

  TemporaryFolder folder;
  std::filesystem::path file = folder.path() / "unet.pt2";
};

TEST_F(DamagedFile, MissingOrOfAnotherKind) {
  refuse({"no such file", file.string()});
  write_file(file, "no archive");
  refuse({file.string(), "isn't a readable .pt2 file"});
  std::filesystem::copy_file(kCompiled, file, std::filesystem::copy_options::overwrite_existing);
  std::filesystem::resize_file(file, std::filesystem::file_size(file) / 2);
  refuse({file.string(), "isn't a readable .pt2 file"});
  std::filesystem::copy_file(kTraced, file, std::filesystem::copy_options::overwrite_existing);
  refuse({file.string(), "has no extra/deepcache.json", "tools/export.py"});
}

TEST_F(DamagedFile, DescriptionsThatCannotBeUsed) {
  write(kDescription, "{");
  refuse({file.string(), "deepcache.json is malformed"});
  describe([](auto& json) { json.erase("inputs"); });
  refuse({file.string(), "deepcache.json is malformed", "inputs"});
  describe([](auto& json) { json["inputs"] = nlohmann::json::array(); });
  refuse({file.string(), "deepcache.json is malformed: 0 inputs, branch 1 of 4"});
  describe([](auto& json) { json["cache_branch_id"] = 4; });
  refuse({file.string(), "deepcache.json is malformed: 3 inputs, branch 4 of 4"});
  describe([](auto& json) { json["inputs"][0]["dtype"] = "float8"; });
  refuse({file.string(), "must be float32, bfloat16 or int64, got \"float8\""});
  describe([](auto& json) { json["format_version"] = 2; });
  refuse({file.string(), "reads format 1", "got 2"});
  describe([](auto& json) { json["cpu_capability"] = "AVX1024"; });
  refuse({file.string(), "compiled for a processor with AVX1024, this one has "});
  describe([](auto& json) { json["instructions"].push_back("avx1024"); });
  refuse({file.string(), "compiled for a processor with avx1024, which this one lacks"});
}

TEST_F(DamagedFile, WithoutCode) {
  setenv("TMPDIR", folder.path().c_str(), 1);  // LibTorch leaves its folder there if it can't load what is in it
  describe([](auto&) {});
  refuse({file.string(), "can't be loaded by this LibTorch"});
  unsetenv("TMPDIR");
}

class CompiledPackage : public testing::Test {
 protected:
  static StableDiffusionParams params(std::int64_t side = 64) {
    return {.num_inference_steps = 6, .guidance_scale = 4.0, .height = side, .width = side};
  }

  static torch::Tensor paint(StableDiffusionPipeline pipe) {
    Helper helper(pipe);
    helper.set_params({.cache_interval = 3, .cache_branch_id = 1});
    helper.enable();
    return pipe("red heart", params()).latents;
  }

  /// A copy without the traced UNet.
  std::filesystem::path compiled_alone() const {
    const auto package = folder.path() / "package";
    std::filesystem::copy(kPackage, package, std::filesystem::copy_options::recursive);
    std::filesystem::remove(package / "unet/model.pt");
    auto manifest = read_json(package / "deepcache.json");
    manifest["files"].erase("unet/model.pt");
    write_file(package / "deepcache.json", manifest.dump());
    return package;
  }

  TemporaryFolder folder;
};

TEST_F(CompiledPackage, PaintsWhatTheTracedUNetPaints) {
  const auto expected = paint(StableDiffusionPipeline::load(kPackage));
  auto pipe = StableDiffusionPipeline::load(kPackage, {.trust_native_code = true});
  expect_error<std::invalid_argument>([&] { pipe("red heart", params(128)); }, {"compiled for \"sample\""});
  EXPECT_LT(difference(paint(std::move(pipe)), expected), 1e-4);
}

TEST_F(CompiledPackage, UntrustedUsesTheTracedUNet) {
  auto pipe = StableDiffusionPipeline::load(kPackage);
  EXPECT_NO_THROW(pipe("red heart", params(128)));  // of a size that the compiled one doesn't take
}

TEST_F(CompiledPackage, WithoutATracedUNetItMustBeTrusted) {
  const auto package = compiled_alone();
  expect_error<std::invalid_argument>([&] { StableDiffusionPipeline::load(package); },
                                      {"model.pt2", "native code", "trust_native_code"});
  const auto expected = paint(StableDiffusionPipeline::load(kPackage));
  EXPECT_LT(difference(paint(StableDiffusionPipeline::load(package, {.trust_native_code = true})), expected), 1e-4);
}

}  // namespace
}  // namespace deepcache
