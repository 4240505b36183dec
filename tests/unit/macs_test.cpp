#include "core/macs.hpp"

#include <ATen/record_function.h>
#include <gtest/gtest.h>

#include <map>

#include "deepcache/helper.hpp"
#include "networks.hpp"

namespace deepcache::macs_test {
namespace {

thread_local std::map<std::string, int>* operators = nullptr;

/// Counts the calls of each operator while it lives, those made by other operators too.
class OperatorCounter {
 public:
  OperatorCounter() {
    operators = &counts_;
    handle_ = at::addThreadLocalCallback(at::RecordFunctionCallback([](const at::RecordFunction& function) {
      if (operators != nullptr) ++(*operators)[function.name()];
      return std::unique_ptr<at::ObserverContext>();
    }));
  }
  ~OperatorCounter() {
    at::removeCallback(handle_);
    operators = nullptr;
  }
  OperatorCounter(const OperatorCounter&) = delete;
  OperatorCounter& operator=(const OperatorCounter&) = delete;
  int operator[](const std::string& name) { return counts_[name]; }

 private:
  std::map<std::string, int> counts_;
  at::CallbackHandle handle_;
};

TEST(ShallowSteps, RunNothingDeep) {
  const auto unet = test_unet();
  const auto inputs = unet_inputs();
  Helper helper(unet);
  helper.set_params({.cache_interval = 2});
  helper.enable();
  const auto count = [&](OperatorCounter&& counter) {  // on weights that are packed, and on such as aren't
    unet.forward(inputs);
    const auto sum = [&](std::initializer_list<const char*> names) {
      int total = 0;
      for (const auto* name : names) total += counter[name];
      return total;
    };
    return std::vector<int>{sum({"aten::_convolution", "deepcache::convolution", "aten::linear", "deepcache::linear"}),
                            sum({"aten::scaled_dot_product_attention", "deepcache::attention"}),
                            sum({"aten::upsample_nearest2d", "deepcache::upsample_convolution"})};
  };
  const auto full = count({}), shallow = count({});
  EXPECT_EQ(helper.stats().cached_steps, 1);
  EXPECT_EQ(full[2], 3);
  // Branch 0: conv_in, two convolutions and a shortcut of the last residual block, two projections of its transformer,
  // conv_out; two layers of the time embedding and the block's own, six of the attentions (the text's keys and values
  // are the full step's), two of the feed-forward.
  EXPECT_EQ(shallow, (std::vector<int>{7 + 11, 2, 0}));
}

TEST(ShallowSteps, DoTheMultiplyAccumulatesThatTheProfileSays) {
  for (const auto& variant : kVariants) {
    const auto unet = test_unet(variant);
    const auto inputs = unet_inputs(variant, 0, 2, 13, 17);
    auto inputs_of_longer_text = inputs;
    inputs_of_longer_text[2] = inputs[2].toTensor().repeat({1, 2, 1});
    const auto with_longer_text = unet.profile(inputs_of_longer_text);
    for (const auto& place : unet.profile(inputs)) {
      Helper helper(unet);
      helper.set_params({.cache_interval = 2, .cache_branch_id = place.cache_branch_id});
      helper.enable();
      const auto count = [&] {  // of what really runs
        const MacCounter counter;
        unet.forward(inputs);
        return counter.macs();
      };
      EXPECT_EQ(count(), place.full_step) << variant << ", branch " << place.cache_branch_id;
      // The text's keys and values are the full step's.
      const auto& longer = with_longer_text[static_cast<std::size_t>(place.cache_branch_id)].cached_step;
      auto expected = place.cached_step;
      expected.weights -= longer.weights - expected.weights;
      EXPECT_EQ(count(), expected) << variant << ", branch " << place.cache_branch_id;
    }
  }
}

TEST(MacCount, KnownOperators) {
  const auto count = [](const std::string& result, const std::vector<c10::IValue>& inputs) {
    return count_macs(inference_graph(make_module("def forward(self, x, y):\n    return " + result + "\n")), inputs)
        .macs;
  };
  const auto x = torch::rand({2, 4, 6, 6}), y = torch::rand({2, 4, 6, 5});
  EXPECT_EQ(count("torch.conv2d(x, self.weight)", {x, y}), (Macs{2 * 36 * 4 * 4, 0}));
  EXPECT_EQ(count("torch.conv2d(x, self.weight, stride=[2, 2], padding=[1, 1])", {x, y}), (Macs{2 * 16 * 4 * 4, 0}));
  EXPECT_EQ(count("torch.conv_transpose2d(x, self.weight, stride=[2, 2])", {x, y}), (Macs{2 * 36 * 4 * 4, 0}));
  EXPECT_EQ(count("torch.matmul(x, y)", {x, y}), (Macs{0, 2 * 4 * 6 * 6 * 5}));
  EXPECT_EQ(count("torch.scaled_dot_product_attention(x, x, x)", {x, y}), (Macs{0, 2 * 4 * 6 * 6 * (6 + 6)}));
  EXPECT_EQ(count("torch.addmm(x, x, y)", {torch::rand({3, 4}), torch::rand({4, 4})}).weights, 0 + 3 * 4 * 4);
  EXPECT_EQ(count("x + y", {x, x}), (Macs{}));
  // LibTorch's abs has no kernel for shapes alone: a real run counts the same.
  EXPECT_EQ(count("torch.abs(torch.conv2d(x, self.weight))", {x, y}), (Macs{2 * 36 * 4 * 4, 0}));
}

}  // namespace
}  // namespace deepcache::macs_test
