#include "memory.hpp"

#include "core/graph_cut.hpp"
#include "core/macs.hpp"
#include "core/torchscript.hpp"
#include "error.hpp"

namespace deepcache::apps {

Memory measure_memory(const torch::jit::Module& unet, const std::vector<c10::IValue>& inputs,
                      const std::optional<torch::jit::Module>& decoder) {
  constexpr std::int64_t kOutermostBranch = 0;
  const auto [full, shallow] = cut(inference_graph(unet), kOutermostBranch);
  const auto full_step = count_macs(full, inputs);
  auto shallow_inputs = inputs;
  shallow_inputs.push_back(full_step.outputs.at(1));
  Memory memory{
      .full_step = full_step.peak_bytes, .cached_step = count_macs(shallow, shallow_inputs).peak_bytes, .decoding = {}};
  if (!decoder) return memory;
  const auto graph = inference_graph(*decoder);
  const auto latents = first_tensor(full_step.outputs.at(0));
  check_argument(latents.dim() == 5, "--decoder is of a video's latents, [B, F, C, h, w]; this UNet gives [{}]",
                 fmt::join(latents.sizes(), ", "));
  for (const auto frames : {std::int64_t{1}, latents.size(1)}) {
    const auto shape = {std::int64_t{1}, frames, latents.size(2), latents.size(3), latents.size(4)};
    memory.decoding[frames] = count_macs(graph, {torch::empty(shape, latents.options())}).peak_bytes;
  }
  return memory;
}

}  // namespace deepcache::apps
