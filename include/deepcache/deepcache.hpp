#pragma once

/// Everything: caching for UNets (helper.hpp), schedulers, and the pipelines over them.

#include "deepcache/cache_policy.hpp"
#include "deepcache/class_conditional.hpp"
#include "deepcache/generate.hpp"
#include "deepcache/helper.hpp"
#include "deepcache/image.hpp"
#include "deepcache/logging.hpp"
#include "deepcache/noise.hpp"
#include "deepcache/pipeline.hpp"
#include "deepcache/run_report.hpp"
#include "deepcache/scheduler.hpp"
#include "deepcache/stable_diffusion.hpp"
#include "deepcache/stable_video_diffusion.hpp"
#include "deepcache/tensor_io.hpp"
#include "deepcache/text_to_video_zero.hpp"
#include "deepcache/tokenizer.hpp"
#include "deepcache/tune.hpp"
#include "deepcache/tuned_policy.hpp"
#include "deepcache/unconditional.hpp"
#include "deepcache/unet.hpp"
#include "deepcache/video.hpp"
