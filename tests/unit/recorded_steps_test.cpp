// Recorded steps on a CPU: a recorder that runs the work again is linked here in place of cuda_graph.cpp's.

#include <ATen/Functions.h>
#include <c10/core/InferenceMode.h>
#include <fmt/ranges.h>
#include <gtest/gtest.h>

#include <atomic>
#include <deepcache/deepcache.hpp>
#include <functional>
#include <thread>

#include "core/recorder.hpp"
#include "expect_error.hpp"
#include "networks.hpp"

namespace deepcache {
namespace {

std::atomic<int> recorded = 0, replayed = 0, alive = 0;
std::atomic<bool> fail_next = false;

std::vector<torch::Tensor> tensors_of(const c10::IValue& value) {
  std::vector<torch::Tensor> tensors;
  map_tensors(value, [&](const torch::Tensor& tensor) { return tensors.emplace_back(tensor); });
  return tensors;
}

/// Like a CUDA graph's, its results lie in the same memory each time.
class FakeRecording : public Recording {
 public:
  explicit FakeRecording(const Recorder::Work& work) : work_(work), output_(work()) { ++alive; }
  ~FakeRecording() override { --alive; }
  void replay() override {
    ++replayed;
    const auto to = tensors_of(output_), from = tensors_of(work_());
    for (std::size_t i = 0; i < to.size(); ++i) to[i].copy_(from[i]);
  }
  const c10::IValue& output() const override { return output_; }

 private:
  Recorder::Work work_;
  c10::IValue output_;
};

class FakeRecorder : public Recorder {
 public:
  std::unique_ptr<Recording> record(const Work& work) override {
    work();
    if (fail_next.exchange(false)) throw std::runtime_error("not while capturing");
    auto recording = std::make_unique<FakeRecording>(work);
    for (auto& tensor : tensors_of(recording->output())) tensor.fill_(-1);  // nothing was computed yet
    ++recorded;
    return recording;
  }
};

}  // namespace

std::unique_ptr<Recorder> make_recorder(torch::Device) {
  return std::make_unique<FakeRecorder>();
}

namespace {

UNet recorded_unet(const std::string& variant = "sd1") {
  return UNet::load(unet_file(variant), {.dtype = torch::kFloat, .cuda_graphs = true});
}

Helper enabled(const UNet& unet, const CacheParams& params) {
  Helper helper(unet);
  helper.set_params(params);
  helper.enable();
  return helper;
}

/// A UNet whose steps are recorded, beside the same one whose steps aren't.
class RecordedStepsTest : public testing::Test {
 protected:
  RecordedStepsTest() { recorded = replayed = 0; }
  void TearDown() override { fail_next = false; }

  void set_params(const CacheParams& params) {
    for (auto* helper : {&actual, &expected}) helper->set_params(params);
  }
  void begin_run() {
    for (auto* helper : {&actual, &expected}) helper->unet().begin_run();
  }
  void set_context(const std::string& context) {
    for (auto* helper : {&actual, &expected}) helper->set_context(context);
  }
  /// Outputs are compared by `check`, when later steps had their chance to overwrite them.
  void step(const std::vector<c10::IValue>& inputs) {
    outputs.emplace_back(first_tensor(actual.forward(inputs)), first_tensor(expected.forward(inputs)));
  }
  void steps(int count, int seed = 0, std::int64_t batch = 1, std::int64_t side = 8) {
    for (int i = 0; i < count; ++i) step(unet_inputs("sd1", seed + i, batch, side, side));
  }
  void check() {
    for (std::size_t i = 0; i < outputs.size(); ++i)
      EXPECT_TRUE(outputs[i].first.equal(outputs[i].second)) << "step " << i;
    outputs.clear();
    const auto have = actual.stats(), want = expected.stats();
    EXPECT_EQ(have.cached_steps, want.cached_steps);
    EXPECT_LE(have.cache_bytes, want.cache_bytes);  // the sum of features is the recording's
    EXPECT_EQ(have.cache_bytes > 0, want.cache_bytes > 0);
  }

  Helper actual = enabled(recorded_unet(), {.cache_interval = 3});
  Helper expected = enabled(test_unet(), {.cache_interval = 3});
  std::vector<std::pair<torch::Tensor, torch::Tensor>> outputs;
};

TEST_F(RecordedStepsTest, FullAndShallowOnesAreReplayedFromTheSecondOn) {
  steps(8);  // full: 0, 3, 6
  check();
  EXPECT_EQ(recorded, 2);
  EXPECT_EQ(replayed, 2 + 4);
}

TEST_F(RecordedStepsTest, WholeOnesToo) {
  set_params({.cache_interval = 1});
  steps(4);
  check();
  EXPECT_EQ(recorded, 1);
  EXPECT_EQ(replayed, 3);
}

TEST_F(RecordedStepsTest, AtEveryBranch) {
  for (std::int64_t branch = 0; branch < actual.unet().num_branches(); ++branch) {
    set_params({.cache_interval = 3, .cache_branch_id = branch});
    steps(7);
    check();
  }
}

TEST_F(RecordedStepsTest, SumsOfFeaturesArePartOfThem) {
  for (const bool guided : {false, true})
    for (const std::int64_t order : {0, 1, 2}) {
      set_params({.cache_interval = 3, .forecast_order = order});
      for (auto* helper : {&actual, &expected}) helper->unet().begin_run({}, {.guided = guided});
      steps(13, static_cast<int>(order), 2);
      // The features of the last order + 1 full steps, but not the sum, unlike where steps aren't recorded.
      const auto sum = order == 0 ? 0 : 1;
      EXPECT_EQ(actual.stats().cache_bytes * (order + 1 + sum), expected.stats().cache_bytes * (order + 1));
      check();
    }
  EXPECT_EQ(recorded, 2 + 4);  // of order 0 it is the feature as it is, guided or not
  set_params({.forecast_order = 2,
              .skip_mode = SkipMode::kList,
              .full_steps = {0, 3, 6},
              .forecast_shares = {{1, 1}, {0.5, 0.2}, {1.5, 1}}});
  for (auto* helper : {&actual, &expected}) helper->unet().begin_run({}, {.guided = true});
  steps(9, 7, 2);
  check();
  EXPECT_EQ(recorded, 6);
}

struct Weights : CachePolicy {
  explicit Weights(std::vector<double> of_latest) : weights(std::move(of_latest)) {}
  bool is_full_step(std::int64_t step_index) const override { return step_index % 4 == 0; }
  std::string describe() const override { return fmt::format("{}", weights); }
  std::vector<double> forecast_weights(std::int64_t step_index) const override {
    auto result = weights;
    for (auto& weight : result) weight *= static_cast<double>(step_index);
    return result;
  }
  std::int64_t num_forecast_weights() const override { return std::ssize(weights); }
  std::vector<double> weights;
};

TEST_F(RecordedStepsTest, WithAPolicysWeights) {
  for (const auto& weights : {std::vector{0.5}, {0.3, -0.1}, {0.5, 0.2, 0.1}}) {
    set_params({.forecast_order = 0, .policy = std::make_shared<Weights>(weights)});
    steps(15);
    check();
  }
}

TEST_F(RecordedStepsTest, SurviveTheRun) {
  steps(6);
  begin_run();
  steps(6, 10);
  actual.reset();
  expected.reset();
  steps(6, 20);
  check();
  EXPECT_EQ(recorded, 2);
  set_params({.cache_interval = 2});  // the same kinds
  steps(6, 30);
  check();
  EXPECT_EQ(recorded, 2);
}

TEST_F(RecordedStepsTest, OfFewShapesBranchesAndDtypesAreKept) {
  const auto before = alive.load();
  for (const int round : {0, 1})
    for (const std::int64_t side : {8, 12}) {
      begin_run();
      steps(5, round, 2, side);
    }
  check();
  EXPECT_EQ(recorded, 4);
  for (const std::int64_t branch : {0, 1, 2, 3, 4, 5}) {
    set_params({.cache_interval = 3, .cache_branch_id = branch});
    steps(5, 0, 2);
  }
  check();
  EXPECT_EQ(recorded, 4 + 5 * 2);
  EXPECT_EQ(alive - before, 4 * 2);
  auto inputs = unet_inputs("sd1", 0, 2);
  inputs[1] = torch::tensor(500.0);  // another dtype
  for (int i = 0; i < 5; ++i) step(inputs);
  check();
  actual.disable();
  EXPECT_EQ(alive, before);
}

TEST_F(RecordedStepsTest, ContextsShareThem) {
  for (int i = 0; i < 8; ++i)
    for (const char* context : {"cond", "uncond", "third"}) {
      set_context(context);
      steps(1, i + static_cast<int>(10 * std::string(context).size()));
    }
  check();
  EXPECT_EQ(recorded, 2);
}

TEST_F(RecordedStepsTest, ReadWhatTheCallerWroteAndLeaveTheCallersTensorsAlone) {
  auto inputs = unet_inputs();
  for (int i = 0; i < 8; ++i) {
    inputs[2].toTensor().mul_(1.5);
    inputs[0].toTensor()[0][0][0][0].fill_(i);
    const auto before = inputs[0].toTensor().clone();
    step(inputs);
    EXPECT_TRUE(inputs[0].toTensor().equal(before));
    first_tensor(actual.forward(inputs)).zero_();
    expected.forward(inputs);
  }
  check();
}

TEST_F(RecordedStepsTest, InInferenceModeAndOutOfIt) {
  for (int i = 0; i < 8; ++i) {
    const c10::InferenceMode mode(i % 3 == 0);
    steps(1, i);
  }
  check();
  auto inputs = unet_inputs();
  inputs[0] = inputs[0].toTensor().requires_grad_();
  step(inputs);
  EXPECT_FALSE(outputs.back().first.requires_grad());
  check();
}

TEST_F(RecordedStepsTest, AnExceptionWhileRecordingLeavesTheHelperUsable) {
  for (const int good : {3, 2}) {  // it comes with the second full step, then with the second shallow one
    actual.disable();
    actual.enable();
    begin_run();
    steps(good);
    fail_next = true;
    expect_error<std::runtime_error>([&] { actual.forward(unet_inputs("sd1", 9)); }, {"not while capturing"});
    EXPECT_EQ(actual.stats().cache_bytes, 0);
    begin_run();
    steps(8, 20);
    check();
  }
  EXPECT_THROW(actual.forward({torch::ones({1, 4, 8, 8}), torch::tensor(1), torch::ones({1, 24, 7})}), std::exception);
  begin_run();
  steps(8, 30);
  check();
}

TEST_F(RecordedStepsTest, ForkedNetworksHaveTheirOwn) {
  const auto first = actual.unet(), second = first.share_weights();
  const auto controlled = first.with_controlnet_files(
      {std::filesystem::path(DEEPCACHE_TEST_DATA) / "packages/controlnet_sd1/controlnet/model.pt"}, torch::kFloat);
  const auto one = enabled(second, {.cache_interval = 2}), other = enabled(controlled, {.cache_interval = 2});
  std::vector<std::thread> threads;
  for (const auto& unet : {first, second})
    threads.emplace_back([unet] {
      for (int i = 0; i < 8; ++i) unet.forward(unet_inputs("sd1", i));
    });
  for (auto& thread : threads) thread.join();
  EXPECT_EQ(recorded, 4);
  // A scale that changes with each step is another number: nothing to record. Of two scales, each has its recordings.
  auto inputs = unet_inputs();
  inputs.emplace_back(torch::rand({1, 3, 64, 64}));
  inputs.emplace_back(0.0);
  const auto plain = controlled.share_weights();
  for (int i = 0; i < 6; ++i) {
    inputs[4] = 0.1 * i;
    controlled.forward(inputs);
  }
  EXPECT_EQ(recorded, 4);
  other.unet().begin_run();
  for (int i = 0; i < 8; ++i) {
    inputs[4] = i / 4 * 0.5;
    const auto output = first_tensor(controlled.forward(inputs));
    if (i % 2 == 0) {
      EXPECT_TRUE(output.equal(first_tensor(plain.forward(inputs)))) << i;
    }
  }
  EXPECT_EQ(recorded, 8);
}

TEST_F(RecordedStepsTest, AnyInputsAndOutputs) {
  const auto file = std::filesystem::path(testing::TempDir()) / "deepcache-recorded-steps.pt";
  make_module(R"(
    def forward(self, x, residuals: List[Tensor], conditions: Dict[str, Tensor], scale: float):
        h = torch.conv2d(x, self.weight) * conditions["strength"]
        h = torch.cat([h, x + residuals[0] * scale], 1)
        return h, h.mean()
  )")
      .save(file);
  const auto helper = enabled(UNet::load(file, {.cuda_graphs = true}), {.cache_interval = 2});
  const auto plain = enabled(UNet::load(file), {.cache_interval = 2});
  std::filesystem::remove(file);
  for (int i = 0; i < 12; ++i) {
    c10::Dict<std::string, torch::Tensor> conditions;
    conditions.insert("strength", torch::full({}, i));
    const std::vector<c10::IValue> inputs{
        torch::rand({1, 4, 3, 3}), std::vector<torch::Tensor>{torch::full({}, 0.5 * i)}, conditions, i < 6 ? 3.0 : 4.0};
    const auto got = helper.unet().forward(inputs), want = plain.unet().forward(inputs);
    ASSERT_TRUE(got.isTuple());
    for (const std::size_t element : {0, 1})
      EXPECT_TRUE(
          got.toTupleRef().elements()[element].toTensor().equal(want.toTupleRef().elements()[element].toTensor()))
          << "step " << i << ", output " << element;
  }
  EXPECT_EQ(recorded, 4);
}

TEST_F(RecordedStepsTest, OfAPipeline) {
  const auto package = std::filesystem::path(DEEPCACHE_TEST_DATA) / "packages/one_layer";
  auto pipe = StableDiffusionPipeline::load(package, {.cuda_graphs = true}),
       plain = StableDiffusionPipeline::load(package);
  const auto helper = enabled(pipe.unet(), {.cache_interval = 3}),
             plain_helper = enabled(plain.unet(), {.cache_interval = 3});
  const StableDiffusionParams params{.num_inference_steps = 8, .height = 64, .width = 64};
  for (int run = 0; run < 2; ++run)
    EXPECT_TRUE(pipe("red heart", params).images.equal(plain("red heart", params).images));
  EXPECT_EQ(recorded, 2);
}

}  // namespace
}  // namespace deepcache
