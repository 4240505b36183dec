#pragma once

#include "deepcache/pipeline.hpp"
#include "deepcache/unet.hpp"
#include "models/model_package.hpp"

namespace deepcache {

/// A package's UNet: the compiled one if there is one and it is trusted, or else the traced one.
/// @throws std::runtime_error as `ModelPackage::file` and `UNet::load` do.
/// @throws std::invalid_argument as `UNet::load` does: for a package too whose only UNet is a compiled one, which isn't
///         trusted.
UNet load_unet(const ModelPackage& package, const LoadOptions& options);

}  // namespace deepcache
