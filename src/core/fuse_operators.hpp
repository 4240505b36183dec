#pragma once

#include "core/torchscript.hpp"

namespace deepcache {

/// Puts operators of src/cpu in the place of those that they do the work of (attention, group norm with SiLU, GEGLU),
/// and takes out divisions by 1. Changes the graph, in which nothing may write in place, and returns it. Results differ
/// by rounding alone. Does nothing on processors for which src/cpu has no kernels.
Graph fuse_operators(Graph graph);

}  // namespace deepcache
