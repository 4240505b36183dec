#pragma once

#include <ATen/CPUGeneratorImpl.h>
#include <torch/csrc/jit/api/module.h>

#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "core/torchscript.hpp"
#include "deepcache/unet.hpp"

namespace deepcache {

/// UNets of the recorded packages: two layers a block, and one, and three.
inline const std::vector<std::string> kVariants{"sd1", "sd2", "one_layer", "three_layers"};

inline std::filesystem::path unet_file(const std::string& variant) {
  return std::filesystem::path(DEEPCACHE_TEST_DATA) / "packages" / variant / "unet/model.pt";
}

/// A new network each time, on weights that are read once.
inline UNet test_unet(const std::string& variant = "sd1") {
  static std::map<std::string, UNet> unets;
  auto found = unets.find(variant);
  if (found == unets.end())
    found = unets.emplace(variant, UNet::load(unet_file(variant), torch::kCPU, torch::kFloat)).first;
  return found->second.share_weights();
}

/// Random inputs of those networks.
inline std::vector<c10::IValue> unet_inputs(const std::string& variant = "sd1", int seed = 0, std::int64_t batch = 1,
                                            std::int64_t height = 8, std::int64_t width = 8) {
  auto generator = at::make_generator<at::CPUGeneratorImpl>(static_cast<std::uint64_t>(seed));
  return {torch::randn({batch, 4, height, width}, generator), torch::tensor(500 - seed),
          torch::randn({batch, 24, variant == "sd2" ? 48 : 32}, generator)};
}

/// What one of them, "sd1", says to random inputs.
inline torch::Tensor call(const UNet& unet, int seed, std::int64_t batch = 1, std::int64_t side = 8) {
  return first_tensor(unet.forward(unet_inputs("sd1", seed, batch, side, side)));
}

/// A network from TorchScript source, with no control flow unless the source has some: it looks like a traced one.
inline torch::jit::Module make_module(const std::string& source) {
  torch::jit::Module module("network");
  module.register_parameter("weight", torch::full({4, 4, 1, 1}, 0.25), false);
  module.define(source);
  module.eval();
  return module;
}

/// Its feature is a parabola in the timestep, and passes to the output.
inline torch::jit::Module parabola() {
  return make_module(R"(
    def forward(self, x, timestep):
        h = torch.conv2d(x, self.weight) * (1.0 + 0.5 * timestep + 0.25 * timestep * timestep)
        return torch.cat([h, x], 1)
  )");
}

}  // namespace deepcache
