# cmake -DMODE=package|sources -DBUILD_DIR=... -DSOURCE_DIR=... -DWORK_DIR=... -DPREFIX_PATH=... -DVIDEO=mp4|png -P run.cmake
function(run)
  execute_process(COMMAND ${ARGN} COMMAND_ERROR_IS_FATAL ANY)
endfunction()

file(REMOVE_RECURSE ${WORK_DIR})
set(flags -G Ninja -DCMAKE_PREFIX_PATH=${PREFIX_PATH})
if(MODE STREQUAL "package")
  run(${CMAKE_COMMAND} --install ${BUILD_DIR} --prefix ${WORK_DIR}/prefix)
  list(APPEND flags -DCMAKE_BUILD_TYPE=Release -Ddeepcache_ROOT=${WORK_DIR}/prefix)
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
