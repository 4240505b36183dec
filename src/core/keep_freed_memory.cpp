#include "deepcache/unet.hpp"

#ifdef __GLIBC__
#include <malloc.h>
#endif

namespace deepcache {

bool keep_freed_memory() {
#ifdef __GLIBC__
  return mallopt(M_MMAP_MAX, 0) == 1 && mallopt(M_TRIM_THRESHOLD, -1) == 1;
#else
  return false;
#endif
}

}  // namespace deepcache
