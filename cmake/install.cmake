include(CMakePackageConfigHelpers)

string(REGEX MATCH "^[0-9]+\\.[0-9]+" DEEPCACHE_TORCH_MINOR ${Torch_VERSION})
set(DEEPCACHE_CMAKE_DIR ${CMAKE_INSTALL_LIBDIR}/cmake/deepcache)
install(TARGETS deepcache EXPORT deepcacheTargets)
install(DIRECTORY include/deepcache DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
install(EXPORT deepcacheTargets NAMESPACE deepcache:: DESTINATION ${DEEPCACHE_CMAKE_DIR})
# Where find_package doesn't look: the build folder has no targets file.
configure_package_config_file(cmake/deepcacheConfig.cmake.in package/deepcacheConfig.cmake
  INSTALL_DESTINATION ${DEEPCACHE_CMAKE_DIR})
write_basic_package_version_file(package/deepcacheConfigVersion.cmake COMPATIBILITY SameMinorVersion)
install(FILES ${PROJECT_BINARY_DIR}/package/deepcacheConfig.cmake ${PROJECT_BINARY_DIR}/package/deepcacheConfigVersion.cmake
  DESTINATION ${DEEPCACHE_CMAKE_DIR})
