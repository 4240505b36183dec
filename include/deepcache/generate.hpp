#pragma once

#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "deepcache/helper.hpp"
#include "deepcache/run_report.hpp"
#include "deepcache/stable_diffusion.hpp"

/// What programs around a pipeline have in common: prompts in, picture files and reports out, with and without caching.
///
///   auto pipe = deepcache::StableDiffusionPipeline::load("models/emoji");
///   deepcache::generate(pipe, {.model = "emoji", .prompts = {"red heart"}, .compare = true});
///
/// Not for apps that want the pictures as tensors: call the pipeline.
namespace deepcache {

/// Files to write, but for `image` only if they are named.
struct GenerateOutputs {
  std::filesystem::path image = "output.png";  ///< PNG; several are numbered ("output-2.png"), and those of uncached
                                               ///< runs for comparison told apart ("output-uncached.png")
  std::filesystem::path report = {};           ///< RunReport's JSON; of several prompts, a list
  std::filesystem::path contact_sheet = {};    ///< PNG of uncached and cached pictures side by side; needs `compare`
  std::filesystem::path latents = {};          ///< of the cached runs, [B, C, h, w] (`save_tensor`)
};

struct GenerateRequest {
  std::string model = {};  ///< its name in the reports
  std::vector<std::string> prompts;
  StableDiffusionParams params = {};
  CacheParams cache = {.cache_interval = 3};
  std::int64_t prompt_batch = 1;  ///< prompts to run at a time. Each starts from the same seed, and its picture is the
                                  ///< one that it gives alone, but for rounding; more memory
  bool compare = false;           ///< run uncached too, and report speedup and likeness
  GenerateOutputs outputs = {};

  /// If set, goes on with the latents, all of them, from this share of the noise process (arXiv 2307.01952, section
  /// 2.5): SDXL's refiner, or any other model of the same latents.
  StableDiffusionPipeline* refiner = nullptr;
  double refiner_start = 0.8;  ///< above 0 and below 1

  std::function<void(const RunReport&)> on_prompt = {};  ///< after each prompt's files are written
};

/// Runs each prompt, and writes the files. What is wrong with the request is found before anything is painted. If the
/// parameters' callback ends a run, what was painted before stays. It caches by helpers of its own: no other may be
/// enabled on these pipelines.
/// @returns a report for each prompt
/// @throws std::invalid_argument as the pipeline does, for a refiner that can't go on with the model's latents, if
///         pictures aren't decoded, if two outputs have one name, or if several prompts are to run at a time, and each
///         is to give several pictures or may have several chunks of tokens.
/// @throws std::runtime_error if a file can't be written.
std::vector<RunReport> generate(StableDiffusionPipeline& pipe, const GenerateRequest& request);

/// The prompts of a text file in UTF-8: one a line, but for blank ones.
/// @throws std::runtime_error if it can't be read, holds no prompt, or isn't UTF-8.
std::vector<std::string> load_prompts(const std::filesystem::path& file);

/// The image of a file, and the mask of another if it is named, as `StableDiffusionParams` takes them: at the size that
/// the parameters ask for, or else at their own, cut down to what the model can paint. Sets height and width too.
/// @throws std::runtime_error as `load_image`.
/// @throws std::invalid_argument if the two files differ in size, or are larger than 2048 x 2048 with no size asked
/// for.
void load_pictures(const StableDiffusionPipeline& pipe, const std::filesystem::path& image,
                   const std::filesystem::path& mask, StableDiffusionParams& params);

/// The control images of files, one for each of the pipeline's ControlNets, at the size of the pictures to make: that
/// which the parameters ask for, or else the first one's, cut down as above. Sets height and width too; scales and
/// windows that `params.control_images` has already stay.
/// @throws std::runtime_error as `load_image`.
/// @throws std::invalid_argument if the first one is larger than 2048 x 2048 with no size asked for.
void load_control_images(const StableDiffusionPipeline& pipe, const std::vector<std::filesystem::path>& files,
                         StableDiffusionParams& params);

/// A line that shows how far something is, "[####    ] 5/10", to be written over the one before.
/// @throws std::invalid_argument unless 0 <= done <= total and total is 1 or more.
std::string progress_bar(std::int64_t done, std::int64_t total);

}  // namespace deepcache
