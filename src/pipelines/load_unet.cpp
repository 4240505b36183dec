#include "pipelines/load_unet.hpp"

#include "error.hpp"
#include "log.hpp"

namespace deepcache {

UNet load_unet(const ModelPackage& package, const LoadOptions& options) {
  constexpr const char* kTraced = "unet/model.pt";
  constexpr const char* kCompiled = "unet/model.pt2";
  const UNetOptions unet_options{.device = options.device,
                                 .dtype = package.dtype(),
                                 .compute_dtype = options.compute_dtype,
                                 .trust_native_code = options.trust_native_code,
                                 .cuda_graphs = options.cuda_graphs};
  if (package.has(kCompiled) && (options.trust_native_code || !package.has(kTraced)))
    return UNet::load(package.file(kCompiled), unet_options);
  const auto traced = package.file(kTraced);
  if (package.has(kCompiled))
    log(LogLevel::kInfo,
        fmt::format("{} is used, and not the compiled UNet beside it: trust_native_code isn't set", traced.string()));
  return UNet::load(traced, unet_options);
}

}  // namespace deepcache
