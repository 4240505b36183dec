# cmake -DMODE=package|sources -DBUILD_DIR=... -DSOURCE_DIR=... -DWORK_DIR=... -DPREFIX_PATH=...
#       -DGENERATOR=... -DCONFIG=... -DVIDEO=mp4|png -P run.cmake
function(run)
  execute_process(COMMAND ${ARGN} COMMAND_ERROR_IS_FATAL ANY)
endfunction()

file(REMOVE_RECURSE ${WORK_DIR})
set(flags -G "${GENERATOR}" -DCMAKE_PREFIX_PATH=${PREFIX_PATH})
if(MODE STREQUAL "package")
  run(${CMAKE_COMMAND} --install ${BUILD_DIR} --config ${CONFIG} --prefix ${WORK_DIR}/prefix)
  list(APPEND flags -DCMAKE_BUILD_TYPE=Release -Ddeepcache_ROOT=${WORK_DIR}/prefix)
  # Another LibTorch than it was built with is refused.
  file(WRITE ${WORK_DIR}/other/TorchConfig.cmake "")
  file(WRITE ${WORK_DIR}/other/TorchConfigVersion.cmake
       "set(PACKAGE_VERSION 2.9.0)\nset(PACKAGE_VERSION_COMPATIBLE TRUE)\n")
  execute_process(
    COMMAND ${CMAKE_COMMAND} -S ${CMAKE_CURRENT_LIST_DIR} -B ${WORK_DIR}/refused ${flags} -DTorch_DIR=${WORK_DIR}/other
    RESULT_VARIABLE result OUTPUT_QUIET ERROR_VARIABLE message)
  string(REGEX REPLACE "[ \n]+" " " message "${message}")
  if(result EQUAL 0 OR NOT message MATCHES "deepcache was built with LibTorch [0-9.]+; found 2\\.9\\.0")
    message(FATAL_ERROR "LibTorch 2.9.0 isn't refused as it should be: ${message}")
  endif()
else()
  # Unoptimized, and many sources at once: it is compiled in less than half of the time.
  list(APPEND flags -DCMAKE_BUILD_TYPE=Debug -DCMAKE_CXX_FLAGS_DEBUG= -DCMAKE_UNITY_BUILD=ON
       -DDEEPCACHE_CPU_KERNELS=OFF -DDEEPCACHE_SOURCE_DIR=${SOURCE_DIR})
endif()
run(${CMAKE_COMMAND} -S ${CMAKE_CURRENT_LIST_DIR} -B ${WORK_DIR}/build ${flags})
run(${CMAKE_COMMAND} --build ${WORK_DIR}/build --target consumer)
set(package ${SOURCE_DIR}/tests/data/packages/sd1)
run(${WORK_DIR}/build/consumer ${package}/unet/model.pt ${package}/scheduler/scheduler_config.json
    ${WORK_DIR}/video.${VIDEO})
