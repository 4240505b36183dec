# Warnings, and the sanitizers where asked for: for this project's own targets only.
function(deepcache_set_warnings target)
  if(MSVC)
    target_compile_options(${target} PRIVATE /W4 /utf-8 $<$<BOOL:${DEEPCACHE_WERROR}>:/WX>)
  else()
    target_compile_options(${target} PRIVATE -Wall -Wextra -Wpedantic -Wshadow -Wnon-virtual-dtor -Woverloaded-virtual
                                             $<$<BOOL:${DEEPCACHE_WERROR}>:-Werror>)
  endif()
  if(DEEPCACHE_SANITIZE)
    # Without vptr: LibTorch hides the type information of some classes that its headers use.
    target_compile_options(${target} PRIVATE -fsanitize=address,undefined -fno-sanitize=vptr -fno-omit-frame-pointer)
    target_link_options(${target} PRIVATE -fsanitize=address,undefined)
  endif()
endfunction()
