#pragma once

/// The process's resident memory in bytes; negative where the system doesn't say.
namespace deepcache::bench {

/// Now, once the allocator has given back what it holds in reserve.
double resident_bytes();

/// The most since `forget_peak`, or since the process began.
double peak_bytes();
void forget_peak();

}  // namespace deepcache::bench
