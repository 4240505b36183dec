#pragma once

#include <string_view>

namespace deepcache::cpu {

/// Whether the processor has one of those instruction sets that at::get_cpu_capability() says nothing of:
/// "avx512_vbmi", "avx512_vnni", "avx512_fp16", "avx512_bf16" or "amx_bf16".
bool has_instructions(std::string_view name);

}  // namespace deepcache::cpu
