include(CMakePackageConfigHelpers)

set(DEEPCACHE_CMAKE_DIR ${CMAKE_INSTALL_LIBDIR}/cmake/deepcache)
install(TARGETS deepcache EXPORT deepcacheTargets)
install(DIRECTORY include/deepcache DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
install(EXPORT deepcacheTargets NAMESPACE deepcache:: DESTINATION ${DEEPCACHE_CMAKE_DIR})
configure_package_config_file(cmake/deepcacheConfig.cmake.in deepcacheConfig.cmake
  INSTALL_DESTINATION ${DEEPCACHE_CMAKE_DIR})
write_basic_package_version_file(deepcacheConfigVersion.cmake COMPATIBILITY SameMinorVersion)
install(FILES ${PROJECT_BINARY_DIR}/deepcacheConfig.cmake ${PROJECT_BINARY_DIR}/deepcacheConfigVersion.cmake
  DESTINATION ${DEEPCACHE_CMAKE_DIR})
