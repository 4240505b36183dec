#include "pipelines/denoising_loop.hpp"

#include <string>
#include <vector>

#include "core/torchscript.hpp"

namespace deepcache {
namespace {

/// The inputs of a UNet in its own order; sample, timestep and scheduled numbers change from call to call.
class Inputs {
 public:
  Inputs(const UNet& unet, const Conditions& conditions, const Schedules& schedules)
      : names_(unet.input_names()), values_(names_.size()), schedules_(schedules) {
    for (std::size_t i = 0; i < names_.size(); ++i)
      if (const auto found = conditions.find(names_[i]); found != conditions.end()) values_[i] = found->second;
  }
  const std::vector<c10::IValue>& at(std::size_t call, const torch::Tensor& sample, const torch::Tensor& timestep) {
    for (std::size_t i = 0; i < names_.size(); ++i) {
      if (names_[i] == "sample") values_[i] = sample;
      if (names_[i] == "timestep") values_[i] = timestep;
      if (const auto found = schedules_.find(names_[i]); found != schedules_.end()) values_[i] = found->second.at(call);
    }
    return values_;
  }

 private:
  std::vector<std::string> names_;
  std::vector<c10::IValue> values_;
  const Schedules& schedules_;
};

/// diffusers' rescale_noise_cfg (arXiv 2305.08891, section 3.4).
torch::Tensor rescale(const torch::Tensor& guided, const torch::Tensor& conditional, double share) {
  std::vector<std::int64_t> dims;
  for (std::int64_t dim = 1; dim < guided.dim(); ++dim) dims.push_back(dim);
  const auto rescaled = guided * (conditional.std(dims, true, true) / guided.std(dims, true, true));
  return share * rescaled + (1 - share) * guided;
}

/// For both halves of the batch, if there are two.
torch::Tensor extra_channels(const PreparedLatents& prepared, bool guided) {
  const auto& conditional = prepared.extra_channels;
  if (!guided || !conditional.defined()) return conditional;
  const auto& unconditional = prepared.unconditional_extra_channels;
  return torch::cat({unconditional.defined() ? unconditional : conditional, conditional});
}

}  // namespace

Denoised denoise(const UNet& unet, Scheduler& scheduler, const StepRange& range, const PreparedLatents& prepared,
                 const Conditions& conditions, const DenoisingOptions& options) {
  const auto timesteps = scheduler.timesteps().slice(0, range.begin, range.end).to(torch::kDouble).contiguous();
  const auto* schedule = timesteps.data_ptr<double>();
  const auto device_timesteps = scheduler.timesteps().to(unet.device());
  const bool guided = options.guidance_scale.defined();
  const auto channels = prepared.latents.dim() - 3;
  const auto twice_if_guided = [guided](const torch::Tensor& half) { return guided ? torch::cat({half, half}) : half; };
  const auto extra = extra_channels(prepared, guided);
  Inputs inputs(unet, conditions, options.schedules);
  unet.begin_run(timesteps, {.continues = options.continues,
                             .adds_noise = scheduler.adds_noise(options.step),
                             .guided = guided,
                             .schedule_size = scheduler.timesteps().size(0)});
  auto latents = prepared.latents;
  for (std::int64_t i = range.begin; i < range.end; ++i) {
    auto sample = scheduler.scale_model_input(twice_if_guided(latents), i);
    if (extra.defined()) sample = torch::cat({sample, extra}, channels);
    const auto done = i - range.begin;
    auto noise = first_tensor(unet.forward(inputs.at(static_cast<std::size_t>(done), sample, device_timesteps[i])));
    if (guided) {
      const auto halves = noise.chunk(2);
      noise = halves[0] + options.guidance_scale * (halves[1] - halves[0]);
      if (options.guidance_rescale > 0) noise = rescale(noise, halves[1], options.guidance_rescale);
    }
    latents = scheduler.step(noise, i, latents, options.step);
    if (prepared.keep_unmasked) latents = prepared.keep_unmasked(latents, i + 1);
    if (options.callback && !options.callback({done, range.size(), schedule[done], latents}))
      return {.latents = latents, .cancelled = true};
  }
  return {.latents = latents};
}

}  // namespace deepcache
