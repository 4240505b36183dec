#include "pipelines/denoising_loop.hpp"

#include <span>
#include <vector>

#include "core/torchscript.hpp"

namespace deepcache {
namespace {

/// The inputs of a UNet in its own order; sample and timestep change from step to step.
class Inputs {
 public:
  Inputs(const UNet& unet, const Conditions& conditions) {
    for (const auto& name : unet.input_names()) {
      if (name == "sample") sample_ = values_.size();
      if (name == "timestep") timestep_ = values_.size();
      values_.emplace_back(name == "sample" || name == "timestep" ? torch::Tensor() : conditions.at(name));
    }
  }
  const std::vector<c10::IValue>& at(torch::Tensor sample, torch::Tensor timestep) {
    values_[sample_] = std::move(sample);
    values_[timestep_] = std::move(timestep);
    return values_;
  }

 private:
  std::vector<c10::IValue> values_;
  std::size_t sample_ = 0, timestep_ = 0;
};

/// diffusers' rescale_noise_cfg (arXiv 2305.08891, section 3.4).
torch::Tensor rescale(const torch::Tensor& guided, const torch::Tensor& conditional, double share) {
  std::vector<std::int64_t> dims;
  for (std::int64_t dim = 1; dim < guided.dim(); ++dim) dims.push_back(dim);
  const auto rescaled = guided * (conditional.std(dims, true, true) / guided.std(dims, true, true));
  return share * rescaled + (1 - share) * guided;
}

}  // namespace

Denoised denoise(const UNet& unet, Scheduler& scheduler, const StepRange& range, const PreparedLatents& prepared,
                 const Conditions& conditions, const DenoisingOptions& options) {
  const auto timesteps = scheduler.timesteps().slice(0, range.begin, range.end).to(torch::kDouble).contiguous();
  const std::span schedule(timesteps.data_ptr<double>(), static_cast<std::size_t>(timesteps.numel()));
  const auto device_timesteps = scheduler.timesteps().to(unet.device());
  const bool guided = options.guidance_scale > 1;
  const auto twice_if_guided = [guided](const torch::Tensor& half) { return guided ? torch::cat({half, half}) : half; };
  const auto extra = prepared.extra_channels.defined() ? twice_if_guided(prepared.extra_channels) : torch::Tensor();
  Inputs inputs(unet, conditions);
  unet.begin_run(schedule);
  auto latents = prepared.latents;
  for (std::int64_t i = range.begin; i < range.end; ++i) {
    auto sample = scheduler.scale_model_input(twice_if_guided(latents), i);
    if (extra.defined()) sample = torch::cat({sample, extra}, 1);
    auto noise = first_tensor(unet.forward(inputs.at(sample, device_timesteps[i])));
    if (guided) {
      const auto halves = noise.chunk(2);
      noise = halves[0] + options.guidance_scale * (halves[1] - halves[0]);
      if (options.guidance_rescale > 0) noise = rescale(noise, halves[1], options.guidance_rescale);
    }
    latents = scheduler.step(noise, i, latents, options.step);
    if (prepared.keep_unmasked) latents = prepared.keep_unmasked(latents, i + 1);
    const auto done = i - range.begin;
    if (options.callback && !options.callback({done, range.size(), schedule[static_cast<std::size_t>(done)], latents}))
      return {.latents = latents, .cancelled = true};
  }
  return {.latents = latents};
}

}  // namespace deepcache
