// Multiply-accumulates of full and cached steps against PyTorch's own counter under DeepCacheSDHelper, recorded by
// tools/references/macs.py.

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "io/files.hpp"
#include "networks.hpp"

namespace deepcache::macs_test {
namespace {

Macs macs_of(const nlohmann::json& json) {
  return {json.at("weights"), json.at("attention")};
}

TEST(MacsParity, EveryBranch) {
  const auto file = read_json(std::filesystem::path(DEEPCACHE_TEST_DATA) / "macs.json");
  ASSERT_EQ(file.at("cases").size(), 4U);
  for (const auto& recorded : file.at("cases")) {
    const std::string variant = recorded.at("variant");
    const std::vector<std::int64_t> shape = recorded.at("shape");
    auto inputs = unet_inputs(variant, 0, shape[0], shape[1], shape[2]);
    inputs[2] = inputs[2].toTensor().slice(1, 0, shape[3]);
    const auto profile = test_unet(variant).profile(inputs);
    ASSERT_EQ(profile.size(), recorded.at("cached").size());
    for (std::size_t branch = 0; branch < profile.size(); ++branch) {
      EXPECT_EQ(profile[branch].full_step, macs_of(recorded.at("full")));
      EXPECT_EQ(profile[branch].cached_step, macs_of(recorded.at("cached")[branch]))
          << variant << ", branch " << branch;
    }
  }
}

}  // namespace
}  // namespace deepcache::macs_test
