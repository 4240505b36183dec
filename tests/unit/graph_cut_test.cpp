#include "core/graph_cut.hpp"

#include <gtest/gtest.h>
#include <torch/csrc/jit/frontend/resolver.h>
#include <torch/csrc/jit/frontend/sugared_value.h>
#include <torch/jit.h>

#include "core/conditioning.hpp"
#include "expect_error.hpp"
#include "networks.hpp"
#include "tensor_near.hpp"

namespace deepcache::graph_cut_test {
namespace {

Graph unet_graph(const std::string& variant) {
  return inference_graph(load_module(unet_file(variant), torch::kFloat));
}

std::size_t node_count(const Graph& graph) {
  return static_cast<std::size_t>(std::distance(graph->nodes().begin(), graph->nodes().end()));
}

bool holds_tensor(const torch::jit::Graph& graph, const void* data) {
  for (const auto* node : graph.nodes()) {
    if (node->kind() != c10::prim::Constant) continue;
    const auto value = torch::jit::toIValue(node->output());
    if (value && value->isTensor() && value->toTensor().defined() && value->toTensor().data_ptr() == data) return true;
  }
  return false;
}

TEST(GraphCut, FindsEverySkipConcatenationByName) {
  const std::map<std::string, std::size_t> counts{{"sd1", 12}, {"sd2", 12}, {"one_layer", 8}, {"three_layers", 16}};
  for (const auto& [variant, count] : counts) {
    const auto names = skip_concatenation_names(unet_graph(variant));
    ASSERT_EQ(names.size(), count) << variant;
    const auto layers = count / 4;
    for (std::size_t branch = 0; branch < count; ++branch)
      EXPECT_EQ(names[branch], "up_blocks." + std::to_string(3 - branch / layers) + ".resnets." +
                                   std::to_string(layers - 1 - branch % layers));
  }
}

TEST(GraphCut, FullAndShallowAreBitEqualToTheNetwork) {
  for (const auto& variant : kVariants) {
    const auto graph = unet_graph(variant);
    const auto inputs = unet_inputs(variant, 0, 2, 13, 17);
    const auto expected = first_tensor(Program(graph, "plain").run(inputs).at(0));
    for (std::size_t branch = 0; branch < skip_concatenations(graph).size(); ++branch) {
      const auto [full, shallow] = cut(graph, static_cast<std::int64_t>(branch));
      const auto outputs = Program(full, "full").run(inputs);
      ASSERT_EQ(outputs.size(), 2U);
      EXPECT_TRUE(first_tensor(outputs[0]).equal(expected)) << variant << ", branch " << branch;
      auto shallow_inputs = inputs;
      shallow_inputs.push_back(outputs[1]);
      EXPECT_TRUE(first_tensor(Program(shallow, "shallow").run(shallow_inputs).at(0)).equal(expected))
          << variant << ", branch " << branch;
    }
  }
}

TEST(GraphCut, ShallowerCutsKeepLessAndTheGraphStaysWhole) {
  const auto graph = unet_graph("sd1");
  const auto before = node_count(graph);
  std::size_t previous = 0;
  for (std::int64_t branch = 0; branch < 12; ++branch) {
    const auto size = node_count(cut(graph, branch).shallow);
    EXPECT_GT(size, previous) << branch;
    EXPECT_LT(size, before) << branch;
    previous = size;
  }
  EXPECT_EQ(node_count(graph), before);
  EXPECT_LT(node_count(cut(graph, 0).shallow), before / 5);
}

TEST(GraphCut, WeightsAreShared) {
  const auto module = load_module(unet_file("sd1"), torch::kFloat);
  const auto weight = module.attr("conv_out").toModule().attr("weight").toTensor();
  const auto deep = module.attr("mid_block").toModule().attr("resnets").toModule().attr("0").toModule().attr("conv1");
  const auto graph = inference_graph(module);
  const auto [full, shallow] = cut(graph, 0);
  for (const auto& part : {graph, full, shallow}) EXPECT_TRUE(holds_tensor(*part, weight.data_ptr()));
  EXPECT_TRUE(holds_tensor(*full, deep.toModule().attr("weight").toTensor().data_ptr()));
  EXPECT_FALSE(holds_tensor(*shallow, deep.toModule().attr("weight").toTensor().data_ptr()));
}

TEST(GraphCut, OnlyConcatenationsOfTwoAlongDimensionOneCount) {
  const auto graph = inference_graph(make_module(R"(
    def forward(self, x):
        a = torch.cat([x, x], -1)
        b = torch.cat([x, x, x], 1)
        h = torch.conv2d(x, self.weight)
        return torch.cat([h, x], 1), a, b
  )"));
  EXPECT_EQ(skip_concatenations(graph).size(), 1U);
  EXPECT_EQ(skip_concatenation_names(graph), std::vector<std::string>{""});
}

TEST(GraphCut, WhatTheNetworkIsToldBesidesCountsForNothing) {
  const auto graph = inference_graph(make_module(R"(
    def forward(self, x, timestep, text, picture):
        told = torch.cat([text, torch.tanh(text)], 1)
        h = torch.cat([x, torch.tanh(picture)], 1)
        h = torch.conv2d(h[:, :4], self.weight) * told.sum()
        return torch.cat([h, x], 1)
  )"));
  EXPECT_EQ(skip_concatenations(graph).size(), 1U);
  const auto step = split_conditioning(graph).step;
  const auto of_step = skip_concatenations(step);
  ASSERT_EQ(of_step.size(), 1U);
  const auto operands = of_step[0]->input(0)->node()->inputs();
  EXPECT_EQ(operands.size(), 2U);
  EXPECT_EQ(operands[1], step->inputs()[0]);
}

TEST(GraphCut, TheDeepOperandMayComeSecond) {
  const auto graph = inference_graph(make_module(R"(
    def forward(self, x):
        skip = torch.conv2d(x, self.weight)
        deep = torch.tanh(skip) * 3
        return torch.cat([skip, deep], 1)
  )"));
  const auto shallow = cut(graph, 0).shallow;
  const auto x = torch::rand({1, 4, 3, 3}), feature = torch::rand({1, 4, 3, 3});
  const auto output = first_tensor(Program(shallow, "shallow").run({x, feature}).at(0));
  EXPECT_TRUE(output.slice(1, 4).equal(feature));
  EXPECT_TRUE(output.slice(1, 0, 4).equal(torch::conv2d(x, torch::full({4, 4, 1, 1}, 0.25))));
  for (const auto* node : shallow->nodes()) EXPECT_NE(node->kind(), c10::aten::tanh);
}

TEST(GraphCut, RefusesWhatItCannotCut) {
  expect_error<std::invalid_argument>(
      [] {
        skip_concatenations(inference_graph(make_module(R"(
          def forward(self, x):
              return torch.conv2d(x, self.weight)
        )")));
      },
      {"no skip concatenation"});
  expect_error<std::invalid_argument>(
      [] {
        skip_concatenations(inference_graph(make_module(R"(
          def forward(self, x):
              h = torch.conv2d(x, self.weight)
              if bool(h.sum() > 0):
                  h = torch.cat([h, x], 1)
              return h
        )")));
      },
      {"control flow", "torch.jit.trace"});
}

TEST(InferenceGraph, RefusesTrainingAndSelfChange) {
  auto module = make_module(R"(
    def forward(self, x):
        return x
  )");
  module.register_attribute("training", c10::BoolType::get(), true);
  expect_error<std::invalid_argument>([&] { inference_graph(module); }, {"training mode", "eval()"});
  torch::jit::Module counter("counter");
  counter.register_buffer("calls", torch::zeros({}));
  counter.define(R"(
    def forward(self, x):
        self.calls = self.calls + 1
        return x + self.calls
  )");
  counter.eval();
  expect_error<std::invalid_argument>([&] { inference_graph(counter); }, {"changes its own attribute \"calls\""});
}

/// Names of free functions in a module's source.
struct FunctionResolver : torch::jit::Resolver {
  std::shared_ptr<torch::jit::CompilationUnit> functions = torch::jit::compile(R"(
    def inner(x):
        return torch.cat([torch.tanh(x), x], 1)
    def outer(x):
        return inner(x) * 2
  )");
  std::shared_ptr<torch::jit::SugaredValue> resolveValue(const std::string& name, torch::jit::GraphFunction& method,
                                                         const torch::jit::SourceRange& place) override {
    if (auto* function = functions->find_function(name)) return std::make_shared<torch::jit::FunctionValue>(function);
    return torch::jit::nativeResolver()->resolveValue(name, method, place);
  }
};

TEST(InferenceGraph, LowersFunctionsAndThoseThatTheyCall) {
  torch::jit::Module module("network");
  const auto functions = std::make_shared<FunctionResolver>();
  module.define("def forward(self, x):\n    return outer(x)\n", functions);
  module.eval();
  const auto graph = inference_graph(module);
  EXPECT_EQ(skip_concatenations(graph).size(), 1U);
  const auto x = torch::rand({1, 2, 3, 3});
  EXPECT_TRUE(first_tensor(Program(graph, "functions").run({x}).at(0)).equal(torch::cat({x.tanh(), x}, 1) * 2));
}

TEST(InferenceGraph, RefusesWhatIsNoConstant) {
  auto module = make_module(R"(
    def helper(self, x):
        return x
    def forward(self, x):
        return self.helper(x), self
  )");
  expect_error<std::invalid_argument>([&] { inference_graph(module); }, {"uses itself in forward"});
}

TEST(InferenceGraph, LeavesTheModuleAsItWas) {
  const auto module = load_module(unet_file("sd1"), torch::kFloat);
  const auto before = module.dump_to_str(true, true, false);
  inference_graph(module);
  EXPECT_EQ(module.dump_to_str(true, true, false), before);
}

TEST(MoveGraph, MovesTensorsAndDeviceConstants) {
  const auto graph = inference_graph(make_module(R"(
    def forward(self, x):
        y = torch.zeros([2, 3], device=torch.device("cpu"))
        return torch.conv2d(x, self.weight), y + x.mean()
  )"));
  move_graph(graph, torch::kMeta);
  bool any_device = false;
  for (const auto* node : graph->nodes()) {
    const auto value = node->kind() == c10::prim::Constant ? torch::jit::toIValue(node->output()) : std::nullopt;
    if (!value) continue;
    if (value->isTensor()) {
      EXPECT_TRUE(value->toTensor().is_meta() || value->toTensor().dim() == 0);
    }
    if (value->isDevice()) {
      EXPECT_TRUE(value->toDevice().is_meta());
    }
    any_device =
        any_device || value->isDevice() || (value->isTensor() && value->toTensor().sizes() == c10::IntArrayRef{2, 3});
  }
  EXPECT_TRUE(any_device);
}

}  // namespace
}  // namespace deepcache::graph_cut_test
