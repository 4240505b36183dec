#pragma once

#include <nlohmann/json.hpp>
#include <string>

#include "deepcache/generate.hpp"

namespace deepcache {

/// What is asked of a pipeline, as it completes it, for reports (`RunReport::request`).
nlohmann::ordered_json describe_request(const GenerateRequest& request, const StableDiffusionPipeline& pipe,
                                        const std::string& prompt);

}  // namespace deepcache
