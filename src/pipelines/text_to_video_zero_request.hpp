#pragma once

#include <string>

#include "deepcache/scheduler.hpp"
#include "deepcache/text_to_video_zero.hpp"
#include "pipelines/denoising_loop.hpp"
#include "pipelines/motion_field.hpp"
#include "pipelines/request.hpp"

namespace deepcache {

/// See TextToVideoZeroPipeline::resolve.
TextToVideoZeroParams resolve(TextToVideoZeroParams params, const ModelTraits& traits);

/// The request of the first frame, which is a Stable Diffusion's picture, resolved.
StableDiffusionParams first_frame(const TextToVideoZeroParams& params, const ModelTraits& traits);

/// Of the frames after the first, for resolved parameters.
MotionField motion_field(const TextToVideoZeroParams& params);

/// The parts of a run.
struct VideoParts {
  StepRange first_to_t1;  ///< of the first frame
  StepRange first_to_t0;
  StepRange all_from_t1;
  std::int64_t calls() const { return first_to_t1.size() + first_to_t0.size() + all_from_t1.size(); }
};

/// Those of parameters that were found to be right, for a run of so many timesteps.
VideoParts parts_of(const TextToVideoZeroParams& params, std::int64_t num_timesteps);

/// Throws std::invalid_argument for what can be seen to be wrong with resolved parameters before anything is computed.
/// @param scheduler  its timesteps are set
void check_video_request(const std::string& prompt, const TextToVideoZeroParams& params, const ModelTraits& traits,
                         const Scheduler& scheduler);

}  // namespace deepcache
