#include "cpu/processor.hpp"

#if defined(__x86_64__) && defined(__GNUC__)
#include <cpuid.h>
#endif

namespace deepcache::cpu {

bool has_instructions([[maybe_unused]] std::string_view name) {
#if defined(__x86_64__) && defined(__GNUC__)
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;  // bits of Intel's manual, volume 2, CPUID leaf 7
  if (__get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) == 0) return false;
  if (name == "avx512_vbmi") return (ecx >> 1U & 1U) != 0;
  if (name == "avx512_vnni") return (ecx >> 11U & 1U) != 0;
  if (name == "amx_bf16") return (edx >> 22U & 1U) != 0;
  if (name == "avx512_fp16") return (edx >> 23U & 1U) != 0;
  if (__get_cpuid_count(7, 1, &eax, &ebx, &ecx, &edx) == 0) return false;
  if (name == "avx512_bf16") return (eax >> 5U & 1U) != 0;
#endif
  return false;
}

}  // namespace deepcache::cpu
