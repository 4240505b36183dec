# Everything comes from the system or from CMAKE_PREFIX_PATH; nothing is downloaded.
# Global, so that a project that adds this one by add_subdirectory can link its library.
set(CMAKE_FIND_PACKAGE_TARGETS_GLOBAL ON)
find_package(Torch REQUIRED)
find_package(Boost CONFIG REQUIRED)  # its headers
find_package(ICU REQUIRED COMPONENTS uc)
find_package(fmt REQUIRED)
find_package(JPEG REQUIRED)
find_package(nlohmann_json REQUIRED)
find_package(OpenSSL REQUIRED COMPONENTS Crypto)
find_package(PNG REQUIRED)
find_package(spdlog REQUIRED)
find_path(STB_INCLUDE_DIR stb_easy_font.h PATH_SUFFIXES stb REQUIRED)

if(NOT DEEPCACHE_FFMPEG MATCHES "^(AUTO|ON|OFF)$")
  message(FATAL_ERROR "DEEPCACHE_FFMPEG must be AUTO, ON or OFF, got \"${DEEPCACHE_FFMPEG}\"")
endif()
set(DEEPCACHE_FFMPEG_MODULES libavcodec>=59 libavformat>=59 libavutil>=57)  # FFmpeg 5.0
set(DEEPCACHE_HAS_FFMPEG FALSE)
if(NOT DEEPCACHE_FFMPEG STREQUAL "OFF")
  find_package(PkgConfig)
  if(PkgConfig_FOUND)
    pkg_check_modules(DEEPCACHE_FFMPEG IMPORTED_TARGET GLOBAL ${DEEPCACHE_FFMPEG_MODULES})
  endif()
  if(TARGET PkgConfig::DEEPCACHE_FFMPEG)
    set(DEEPCACHE_HAS_FFMPEG TRUE)
  elseif(DEEPCACHE_FFMPEG STREQUAL "ON")
    message(FATAL_ERROR "DEEPCACHE_FFMPEG is ON, but pkg-config doesn't find ${DEEPCACHE_FFMPEG_MODULES}")
  endif()
endif()

if(Torch_VERSION VERSION_LESS 2.11)
  message(WARNING "deepcache is made for LibTorch 2.11 to 2.13; found ${Torch_VERSION}")
endif()
