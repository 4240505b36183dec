#include "core/conditioning.hpp"

#include <gtest/gtest.h>
#include <torch/jit.h>

#include <limits>

#include "core/macs.hpp"
#include "deepcache/helper.hpp"
#include "networks.hpp"

namespace deepcache::conditioning_test {
namespace {

std::vector<c10::IValue> run_split(const ConditioningSplit& split, const std::vector<c10::IValue>& inputs) {
  auto all = inputs;
  for (const auto& value : Program(split.conditioning, "conditioning").run(split.unchanging(inputs)))
    all.push_back(value);
  return Program(split.step, "step").run(std::move(all));
}

std::int64_t macs_of(const auto& function) {
  const MacCounter counter;
  function();
  return counter.macs().weights;
}

ConditioningSplit split_of(const std::string& forward) {
  return split_conditioning(inference_graph(make_module(forward)));
}

TEST(Conditioning, SplitGraphIsBitEqualToTheWhole) {
  for (const auto& variant : kVariants) {
    const auto graph = inference_graph(load_module(unet_file(variant), torch::kFloat));
    const auto inputs = unet_inputs(variant, 0, 2, 13, 17);
    const auto split = split_conditioning(graph);
    EXPECT_EQ(split.inputs, std::vector<std::size_t>{2}) << variant;
    EXPECT_EQ(split.conditioning->inputs().size(), 1U) << variant;
    EXPECT_TRUE(first_tensor(run_split(split, inputs).at(0)).equal(first_tensor(Program(graph, "").run(inputs).at(0))))
        << variant;
    // Keys and values of the text, and nothing else, are computed apart.
    const auto whole = count_macs(graph, inputs).macs, apart = count_macs(split.conditioning, {inputs[2]}).macs;
    EXPECT_EQ(macs_of([&] { run_split(split, inputs); }), whole.weights) << variant;
    EXPECT_GT(apart.weights, 0) << variant;
    EXPECT_EQ(apart.attention, 0) << variant;
  }
}

TEST(Conditioning, WhatIsReadOfListsNumbersAndDictionaries) {
  const auto split = split_of(R"(
    def forward(self, sample, timestep, more: Dict[str, Tensor], unused):
        text = torch.tanh(more["text"])
        pair = [text, text + 1]
        return torch.cat(pair, 1) * sample.size(0) + text.size(1) + sample, timestep
  )");
  EXPECT_EQ(split.inputs, std::vector<std::size_t>{2});
  const auto sample = torch::rand({2, 4}), text = torch::rand({2, 2});
  c10::Dict<std::string, torch::Tensor> more;
  more.insert("text", text);
  const auto output = run_split(split, {sample, sample, more, sample}).at(0).toTupleRef().elements()[0].toTensor();
  const auto half = text.tanh();
  EXPECT_TRUE(output.equal(torch::cat({half, half + 1}, 1) * 2 + 2 + sample));
}

TEST(Conditioning, RandomNumbersAndWhatWritesInPlaceStay) {
  EXPECT_TRUE(split_of(R"(
    def forward(self, sample, timestep, text):
        return sample + torch.rand_like(text)
  )")
                  .conditioning->outputs()
                  .empty());
  EXPECT_TRUE(split_of(R"(
    def forward(self, sample, timestep, text):
        noise = torch.tanh(text)
        noise.add_(sample)
        return noise
  )")
                  .conditioning->outputs()
                  .empty());
  EXPECT_TRUE(split_of(R"(
    def forward(self, sample, timestep):
        return sample + timestep
  )")
                  .conditioning->outputs()
                  .empty());
}

TEST(Conditioning, WhatWritesInPlaceIsComputedOnce) {
  for (const auto* forward : {R"(
    def forward(self, sample, timestep, text):
        text.mul_(2)
        h = torch.conv2d(sample, self.weight)
        return torch.cat([h, sample], 1) + text
  )",
                              R"(
    def forward(self, sample, timestep, text):
        low, high = torch.chunk(torch.tanh(text), 2, 1)
        low.add_(1)
        h = torch.conv2d(sample, self.weight)
        return torch.cat([h, sample], 1) + low.sum()
  )"}) {
    const auto split = split_of(forward);
    EXPECT_TRUE(split.inputs.empty() && split.conditioning->inputs().empty());
    const auto module = make_module(forward);
    const auto sample = torch::rand({1, 4, 2, 2}), text = torch::rand({1, 8, 2, 2});
    auto expected_text = text.clone(), actual_text = text.clone();
    auto module_run = module;
    const auto expected = module_run.forward({sample, sample, expected_text}).toTensor();
    const UNet unet(module);
    EXPECT_TRUE(unet.forward({sample, sample, actual_text}).toTensor().equal(expected));
    EXPECT_TRUE(actual_text.equal(expected_text));
  }
}

TEST(Conditioning, KeptValuesAreNotTheCallers) {
  const UNet unet(make_module(R"(
    def forward(self, sample, timestep, picture):
        told = picture * 2
        h = torch.conv2d(sample, self.weight) + picture.reshape(1, 4, 2, 2) + told
        return torch.cat([h, sample], 1), told
  )"));
  Helper helper(unet);
  helper.enable();
  const auto sample = torch::rand({1, 4, 2, 2}), first = torch::rand({1, 4, 2, 2}), again = first.clone();
  const auto expected = first_tensor(unet.forward({sample, sample, first})).clone();
  first.zero_();  // what the second step's is equal to is written over
  const auto output = unet.forward({sample, sample, again});
  EXPECT_TRUE(first_tensor(output).equal(expected));
  output.toTupleRef().elements()[1].toTensor().zero_();  // neither is what is returned kept
  EXPECT_TRUE(first_tensor(unet.forward({sample, sample, again})).equal(expected));
}

TEST(Conditioning, SameIsBitByBit) {
  const auto a = torch::tensor({1.F, std::numeric_limits<float>::quiet_NaN()});
  EXPECT_TRUE(is_same(a, a.clone()));
  EXPECT_FALSE(is_same(a, torch::rand({0})));
  EXPECT_TRUE(is_same(a.expand({2, 2}), torch::stack({a, a})));
  EXPECT_FALSE(is_same(a, a + 1));
  EXPECT_FALSE(is_same(a, a.to(torch::kDouble)));
  EXPECT_FALSE(is_same(a, a.unsqueeze(0)));
  EXPECT_FALSE(is_same(torch::tensor(0.F), torch::tensor(-0.F)));
  EXPECT_FALSE(is_same(a, 1.0));
  EXPECT_FALSE(is_same(torch::empty({2}, torch::kMeta), torch::empty({2}, torch::kMeta)));
  EXPECT_TRUE(is_same(torch::empty({0, 3}), torch::empty({0, 3})));
  EXPECT_TRUE(is_same(0.5, 0.5));
  EXPECT_FALSE(is_same(0.5, 1));
  EXPECT_TRUE(is_same(c10::IValue(), c10::IValue()));
  const auto tuple = [&](double last) {
    return c10::IValue(c10::ivalue::Tuple::create({a.clone(), c10::List<double>({1.0, last})}));
  };
  EXPECT_TRUE(is_same(tuple(2), tuple(2)));
  EXPECT_FALSE(is_same(tuple(2), tuple(3)));
  const auto dictionary = [&](const std::string& first, const std::string& second) {
    c10::Dict<std::string, torch::Tensor> result;
    result.insert(first, a);
    result.insert(second, a);
    return c10::IValue(result);
  };
  EXPECT_TRUE(is_same(dictionary("x", "y"), dictionary("x", "y")));
  EXPECT_FALSE(is_same(dictionary("x", "y"), dictionary("y", "x")));
}

TEST(Conditioning, IsComputedOnceARun) {
  const auto unet = test_unet();
  const auto inputs = unet_inputs();
  Helper helper(unet);
  helper.enable();
  const auto step = [&] { return macs_of([&] { unet.forward(inputs); }); };
  const auto disabled = macs_of([&] { unet.share_weights().forward(inputs); });
  const auto first = step(), second = step();
  EXPECT_EQ(first, disabled);
  EXPECT_LT(second, first);
  EXPECT_EQ(step(), second);
  helper.set_context("other");
  EXPECT_EQ(step(), first);
  helper.set_context("");
  EXPECT_EQ(step(), second);
  helper.reset();
  EXPECT_EQ(step(), first);
  unet.begin_run();
  EXPECT_EQ(step(), first);
  helper.set_params({.cache_interval = 2});
  EXPECT_EQ(step(), first);
  const auto cached = step();
  helper.reset();
  unet.forward(unet_inputs("sd1", 1));  // another text
  EXPECT_GT(step(), cached);
}

TEST(Conditioning, FollowsWhateverTheCallerDoesToItsTensors) {
  const auto unet = test_unet(), plain = unet.share_weights();
  Helper helper(unet);
  helper.enable();
  auto inputs = unet_inputs();
  const auto expect_equal = [&](const char* what) {
    EXPECT_TRUE(first_tensor(unet.forward(inputs)).equal(first_tensor(plain.forward(inputs)))) << what;
  };
  expect_equal("first");
  inputs[0] = inputs[0].toTensor() + 1;
  expect_equal("same text");
  inputs[2].toTensor().mul_(2);
  expect_equal("in place");
  inputs[2].toTensor().data_ptr<float>()[0] = 7;
  expect_equal("behind LibTorch's back");
  {
    const c10::InferenceMode guard;
    inputs[2] = inputs[2].toTensor() * 0.5;
    expect_equal("in inference mode");
    inputs[2].toTensor().add_(1);
    expect_equal("in place in inference mode");
  }
  inputs = unet_inputs("sd1", 3, 2, 5, 7);
  expect_equal("another shape");
}

TEST(Conditioning, ControlNetsReadTheirImageOnceARun) {
  const auto path = std::filesystem::path(DEEPCACHE_TEST_DATA) / "packages/controlnet_sd1/controlnet/model.pt";
  const auto unet = test_unet().with_controlnets({load_module(path, torch::kFloat)}), plain = unet.share_weights();
  Helper helper(unet);
  helper.set_params({.cache_interval = 2});
  helper.enable();
  auto inputs = unet_inputs();
  inputs.emplace_back(torch::rand({1, 3, 64, 64}));
  inputs.emplace_back(1.0);
  const auto first = macs_of([&] { unet.forward(inputs); });
  const auto cached = macs_of([&] { unet.forward(inputs); });
  const auto profile = unet.profile(inputs)[0];
  EXPECT_EQ(first, profile.full_step.weights);
  EXPECT_LT(cached, profile.cached_step.weights);
  inputs[4] = 0.25;  // reads no image anew
  EXPECT_EQ(macs_of([&] { unet.forward(inputs); }), macs_of([&] {
                                                      unet.forward(inputs);
                                                      unet.forward(inputs);
                                                    }) - cached);
  helper.set_params({.cache_interval = 1});
  for (const auto scale : {1.0, 0.0}) {
    inputs[4] = scale;
    EXPECT_TRUE(first_tensor(unet.forward(inputs)).equal(first_tensor(plain.forward(inputs)))) << scale;
  }
}

}  // namespace
}  // namespace deepcache::conditioning_test
