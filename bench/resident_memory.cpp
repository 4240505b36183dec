#include "resident_memory.hpp"

#ifdef __linux__
#include <malloc.h>
#include <unistd.h>

#include <cstdint>
#include <fstream>
#include <string>

namespace deepcache::bench {

double resident_bytes() {
#ifdef __GLIBC__
  malloc_trim(0);
#endif
  std::int64_t total = 0, resident = 0;
  if (!(std::ifstream("/proc/self/statm") >> total >> resident)) return -1;
  return static_cast<double>(resident) * static_cast<double>(sysconf(_SC_PAGESIZE));
}

double peak_bytes() {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);)
    if (line.starts_with("VmHWM:")) return 1024 * std::stod(line.substr(6));
  return -1;
}

void forget_peak() {
  std::ofstream("/proc/self/clear_refs") << 5;
}

}  // namespace deepcache::bench
#else
namespace deepcache::bench {

double resident_bytes() {
  return -1;
}
double peak_bytes() {
  return -1;
}
void forget_peak() {}

}  // namespace deepcache::bench
#endif
