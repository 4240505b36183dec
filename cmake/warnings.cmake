# Warnings, and the sanitizers where asked for: for this project's own targets only.
function(deepcache_set_warnings target)
  if(MSVC)
    target_compile_options(${target} PRIVATE /W4 /utf-8 $<$<BOOL:${DEEPCACHE_WERROR}>:/WX>)
  else()
    target_compile_options(${target} PRIVATE -Wall -Wextra -Wpedantic -Wshadow -Wnon-virtual-dtor -Woverloaded-virtual
                                             $<$<BOOL:${DEEPCACHE_WERROR}>:-Werror>)
  endif()
  # Unity builds: a source's own types, in an unnamed namespace, are taken there for a header's.
  if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
    target_compile_options(${target} PRIVATE $<$<BOOL:$<TARGET_PROPERTY:UNITY_BUILD>>:-Wno-subobject-linkage>)
  endif()
  if(DEEPCACHE_SANITIZE)
    # Without vptr: LibTorch hides the type information of some classes that its headers use.
    target_compile_options(${target} PRIVATE -fsanitize=address,undefined -fno-sanitize=vptr -fno-omit-frame-pointer)
    target_link_options(${target} PRIVATE -fsanitize=address,undefined)
  endif()
endfunction()
