#include "core/packed_weights.hpp"

#include <gtest/gtest.h>
#include <torch/csrc/jit/ir/constants.h>
#include <torch/jit.h>

#include "core/cast_graph.hpp"
#include "cpu/operators.hpp"
#include "deepcache/unet.hpp"
#include "networks.hpp"

namespace deepcache::packed_weights_test {
namespace {

using Inputs = std::vector<c10::IValue>;

/// Functions of x, or of what is made of it first, the weights w of a convolution, m of a linear layer, and the bias b.
Graph graph_of(const std::string& result, const std::map<std::string, torch::Tensor>& constants,
               const std::string& up = "x") {
  torch::jit::Module module("network");
  for (const auto& [name, tensor] : constants) module.register_parameter(name, tensor, false);
  module.define("def forward(self, x):\n    up = " + up + "\n    return " + result + "\n");
  module.eval();
  return inference_graph(module);
}

int count(const Graph& graph, const char* kind) {
  int found = 0;
  for (const auto* node : graph->nodes()) found += node->kind() == c10::Symbol::fromQualString(kind) ? 1 : 0;
  return found;
}

std::int64_t bytes_of_constants(const Graph& graph) {
  std::size_t bytes = 0;
  for (const auto* node : graph->nodes())
    if (node->kind() == c10::prim::Constant)
      if (const auto value = torch::jit::toIValue(node->output());
          value && value->isTensor() && !value->toTensor().is_meta())
        bytes += value->toTensor().nbytes();
  return static_cast<std::int64_t>(bytes);
}

void expect_near(const torch::Tensor& actual, const torch::Tensor& expected, torch::Dtype dtype) {
  ASSERT_EQ(actual.sizes(), expected.sizes());
  EXPECT_EQ(actual.scalar_type(), dtype);
  const auto exact = expected.to(torch::kDouble);
  const auto error = ((actual.to(torch::kDouble) - exact).norm() / exact.norm()).item<double>();
  EXPECT_LT(error, dtype == torch::kFloat ? 2e-6 : 8e-3);
}

class PackedLayers : public testing::TestWithParam<std::string> {};

TEST_P(PackedLayers, DoWhatTheyDidUnpacked) {
  for (const auto dtype : {torch::kFloat, torch::kBFloat16, torch::kHalf, torch::kDouble}) {
    torch::manual_seed(0);
    const std::map<std::string, torch::Tensor> constants{
        {"w", torch::randn({16, 8, 3, 3}).to(dtype)}, {"g", torch::randn({16, 4, 3, 3}).to(dtype)},
        {"o", torch::randn({16, 8, 1, 1}).to(dtype)}, {"t", torch::randn({8, 16, 2, 2}).to(dtype)},
        {"m", torch::randn({16, 10}).to(dtype)},      {"r", torch::randn({2, 16, 9, 10}).to(dtype)},
        {"b", torch::randn({16}).to(dtype)}};
    const auto graph = graph_of(GetParam(), constants);
    const auto x = torch::randn({2, 8, 9, 10}).to(dtype);
    const auto expected = Program(graph, "unpacked").run({x})[0].toTensor();
    PackedWeights weights;
    const auto shapes = weights.pack(graph->copy());
    const auto runnable = weights.runnable(shapes);
    expect_near(Program(runnable, "packed").run({x})[0].toTensor(), expected, dtype);
    // Groups, dilation and transposition aren't among what is packed.
    const bool stays = GetParam().find("self.g") != std::string::npos ||
                       GetParam().find("self.t") != std::string::npos ||
                       GetParam().find("[2, 2], False") != std::string::npos || !cpu::has_kernels(dtype);
    EXPECT_EQ(count(runnable, "aten::_convolution") + count(runnable, "aten::linear") > 0, stays);
    if (stays)
      EXPECT_EQ(bytes_of_constants(shapes), bytes_of_constants(graph));
    else
      EXPECT_LT(bytes_of_constants(shapes), bytes_of_constants(graph));
  }
}

// _convolution is what tracing makes of convolutions.
std::string traced(const std::string& arguments, const std::string& rest = "[1, 1], False, [0, 0], 1") {
  return "torch._convolution(" + arguments + ", " + rest + ", False, False, True, True)";
}

INSTANTIATE_TEST_SUITE_P(
    Kinds, PackedLayers,
    testing::Values(traced("x, self.w, self.b, [1, 1], [1, 1]"), traced("x, self.w, None, [2, 2], [0, 0]"),
                    traced("x, self.w, self.b, [1, 1], [2, 2]", "[2, 2], False, [0, 0], 1"),
                    traced("x, self.g, self.b, [1, 1], [1, 1]", "[1, 1], False, [0, 0], 2"),
                    traced("x, self.o, self.b, [1, 1], [0, 0]"), traced("x, self.o, None, [2, 2], [0, 0]"),
                    traced("x, self.t, self.b, [2, 2], [0, 0]", "[1, 1], True, [0, 0], 1"),
                    traced("x.permute([0, 1, 3, 2]).contiguous(), self.o, self.b, [1, 1], [0, 0]"),
                    "torch.linear(x, self.m, self.b)", "torch.linear(x, self.m, None)",
                    traced("x / 1.0, self.w, self.b, [1, 1], [1, 1]") + " * 2 / 1.0",
                    traced("x, self.w, self.b, [1, 1], [1, 1]") + " + self.r",
                    "torch.linear(x, self.m) + torch.linear(x, self.m, self.b)",
                    traced("x, self.o, self.b, [1, 1], [0, 0]") + " + self.r + self.r",
                    traced("x, self.w, self.b, [1, 1], [1, 1]") + ".add(self.r, alpha=2)",
                    traced("x, self.w, None, [1, 1], [1, 1]") + " + self.b[:, None, None] + self.r"));

TEST(PackedWeights, UpsamplingIsPartOfTheConvolutionThatAloneReadsIt) {
  torch::manual_seed(0);
  const auto x = torch::randn({2, 8, 5, 6});
  struct Case {
    std::string upsampling;  // size, and factors
    std::string result = traced("up, self.w, self.b, [1, 1], [1, 1]");
    bool folded = false;
  };
  const std::string doubled = "[10, 12], None, None";
  for (const auto& [upsampling, result, folded] : {Case{.upsampling = doubled, .folded = true},
                                                   {.upsampling = "[9, 11], None, None", .folded = true},
                                                   {.upsampling = "[15, 6], None, None", .folded = true},
                                                   {.upsampling = "[10, 12], 2., 2.", .folded = true},
                                                   {.upsampling = "None, [2., 2.]", .folded = true},
                                                   {.upsampling = "None, [2., 3.]"},
                                                   {.upsampling = "[9, 9], 1.8, 1.5"},
                                                   {doubled, traced("up, self.w, self.b, [2, 2], [1, 1]")},
                                                   {doubled, traced("up, self.w, self.b, [1, 1], [0, 1]")},
                                                   {doubled, traced("up, self.o, self.b, [1, 1], [1, 1]")},
                                                   {doubled, Case{}.result + " + up.sum()"}}) {
    const auto graph = graph_of(
        result, {{"w", torch::randn({16, 8, 3, 3})}, {"o", torch::randn({16, 8, 1, 1})}, {"b", torch::randn({16})}},
        "torch.upsample_nearest2d(x, " + upsampling + ")");
    const auto expected = Program(graph, "unpacked").run({x})[0].toTensor();
    for (const auto dtype : {torch::kFloat, torch::kBFloat16}) {  // casts are between the two
      PackedWeights weights;
      const auto runnable = weights.runnable(weights.pack(cast_graph(graph->copy(), dtype)));
      expect_near(Program(runnable, "packed").run({x})[0].toTensor(), expected, dtype);
      if (!cpu::has_kernels(dtype)) continue;
      EXPECT_EQ(count(runnable, "deepcache::upsample_convolution"), folded ? 1 : 0) << upsampling << result;
      EXPECT_EQ(count(runnable, "aten::upsample_nearest2d"), folded ? 0 : 1) << upsampling << result;
    }
  }
}

TEST(PackedWeights, CastLayersReadNoCopiesInOtherLayouts) {
  const auto graph = graph_of(traced("x.permute([0, 1, 3, 2]).contiguous(), self.o, self.b, [1, 1], [0, 0]"),
                              {{"o", torch::randn({16, 8, 1, 1})}, {"b", torch::randn({16})}});
  PackedWeights weights;
  const auto runnable = weights.runnable(weights.pack(cast_graph(graph->copy(), torch::kBFloat16)));
  EXPECT_EQ(count(runnable, "aten::contiguous"), cpu::has_kernels(torch::kBFloat16) ? 0 : 1);
}

TEST(PackedWeights, GraphsThatWriteInPlaceStay) {
  const auto graph =
      graph_of("torch.relu_(torch.linear(x, self.m, self.b))", {{"m", torch::randn({4, 3})}, {"b", torch::randn({4})}});
  PackedWeights weights;
  const auto packed = weights.pack(graph->copy());
  EXPECT_EQ(bytes_of_constants(packed), bytes_of_constants(graph));
  EXPECT_EQ(count(weights.runnable(packed), "aten::linear"), 1);
}

TEST(PackedWeights, NothingIsFusedBesideWhatWritesInPlace) {  // as a ControlNet that does, beside a UNet
  const auto layer =
      graph_of("torch.linear(x, self.m, self.b)", {{"m", torch::randn({4, 4})}, {"b", torch::randn({4})}});
  PackedWeights weights;
  weights.pack(layer->copy());
  const auto writes = graph_of("torch.relu_(torch.linear(x, self.m, self.b) / 1.0)",
                               {{"m", torch::randn({4, 4})}, {"b", torch::randn({4})}});
  EXPECT_EQ(count(weights.runnable(writes), "aten::div"), 1);
}

TEST(PackedWeights, DivisionsByOneStayWhereTheyMakeNumbersFractional) {
  const auto graph = graph_of("torch.linear((x / 1.0).reshape(1, 4), self.m, self.b) / 1.0",
                              {{"m", torch::randn({4, 4})}, {"b", torch::randn({4})}});
  PackedWeights weights;
  const Program program(weights.runnable(weights.pack(graph->copy())), "packed");
  const auto whole = torch::arange(4);
  expect_near(program.run({whole}).at(0).toTensor(), Program(graph, "").run({whole}).at(0).toTensor(), torch::kFloat);
  if (cpu::has_kernels(torch::kFloat)) {
    EXPECT_EQ(count(weights.runnable(weights.pack(graph->copy())), "aten::div"), 1);
  }
}

TEST(PackedWeights, AUNetRunsOnTheFastOperators) {
  if (!cpu::has_kernels(torch::kFloat)) GTEST_SKIP() << "this processor has no kernels";
  auto graph = inference_graph(load_module(unet_file("sd1"), torch::kFloat));
  const auto attentions = count(graph, "aten::scaled_dot_product_attention"), norms = count(graph, "aten::group_norm"),
             gelus = count(graph, "aten::gelu");
  ASSERT_GT(attentions, 0);
  ASSERT_GT(norms, 0);
  ASSERT_GT(gelus, 0);
  PackedWeights weights;
  const auto runnable = weights.runnable(weights.pack(graph));
  EXPECT_EQ(count(runnable, "deepcache::attention"), attentions);
  EXPECT_EQ(count(runnable, "deepcache::group_norm"), norms);
  EXPECT_EQ(count(runnable, "deepcache::geglu"), gelus);
  for (const auto* slow : {"aten::_convolution", "aten::linear", "aten::group_norm", "aten::gelu"})
    EXPECT_EQ(count(runnable, slow), 0) << slow;
}

TEST(PackedWeights, UNetsInBfloat16StayNearTheModule) {
  const torch::NoGradGuard no_grad;
  auto inputs = unet_inputs();
  const auto exact = first_tensor(load_module(unet_file("sd1"), torch::kFloat).forward(inputs));
  auto module = load_module(std::filesystem::path(DEEPCACHE_TEST_DATA) / "packages/sd1_bfloat16/unet/model.pt");
  for (auto& input : inputs)
    if (input.toTensor().dim() > 0) input = input.toTensor().to(torch::kBFloat16);
  const auto error = [&](const torch::Tensor& output) {
    return ((output.to(torch::kFloat) - exact).norm() / exact.norm()).item<double>();
  };
  const auto of_module = error(first_tensor(module.forward(inputs)));
  const auto ours = error(first_tensor(UNet(module).forward(inputs)));
  EXPECT_LT(of_module, 0.05);  // it is the same network
  EXPECT_LT(ours, 1.2 * of_module);
}

}  // namespace
}  // namespace deepcache::packed_weights_test
