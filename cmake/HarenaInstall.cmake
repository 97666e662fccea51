# SPDX-License-Identifier: Apache-2.0
# Install rules of the package: headers for BPF programs, the CMake package, the pkg-config file.
# Each layer installs its own library and headers (HarenaLayer.cmake).

include(CMakePackageConfigHelpers)

get_property(harena_built_layers GLOBAL PROPERTY HARENA_BUILT_LAYERS)
get_property(harena_built_libs GLOBAL PROPERTY HARENA_BUILT_LIBS)
get_property(harena_built_archives GLOBAL PROPERTY HARENA_BUILT_ARCHIVES)
set(package_dir "${CMAKE_INSTALL_LIBDIR}/cmake/harena")

file(GLOB umbrella_headers "${PROJECT_SOURCE_DIR}/harena/*.hpp")
install(FILES ${umbrella_headers} DESTINATION "${CMAKE_INSTALL_INCLUDEDIR}/harena")
install(DIRECTORY include-bpf DESTINATION "${CMAKE_INSTALL_DATADIR}/harena" OPTIONAL)

configure_package_config_file(cmake/harenaConfig.cmake.in harenaConfig.cmake INSTALL_DESTINATION "${package_dir}"
    PATH_VARS CMAKE_INSTALL_DATADIR)
write_basic_package_version_file(harenaConfigVersion.cmake COMPATIBILITY SameMinorVersion)
install(FILES "${PROJECT_BINARY_DIR}/harenaConfig.cmake" "${PROJECT_BINARY_DIR}/harenaConfigVersion.cmake"
    DESTINATION "${package_dir}")
if(harena_built_layers)
    install(EXPORT harenaTargets NAMESPACE harena:: DESTINATION "${package_dir}")
endif()

# pkg-config: a static library comes before those that it uses, so the highest layer is first.
set(pc_libs "")
foreach(archive IN LISTS harena_built_archives)
    string(PREPEND pc_libs " -l${archive}")
endforeach()
set(pc_requires "")
foreach(pair "PkgConfig::LIBELF libelf" "PkgConfig::LIBBPF libbpf" "fmt::fmt fmt")
    separate_arguments(pair)
    list(GET pair 0 target)
    list(GET pair 1 module)
    if(target IN_LIST harena_built_libs)
        string(APPEND pc_requires " ${module}")
    endif()
endforeach()
set(pc_cflags "")
if(HARENA_DEBUG_CHECKS)
    set(pc_cflags " -DHARENA_DEBUG_CHECKS=1")
endif()
cmake_path(RELATIVE_PATH CMAKE_INSTALL_FULL_INCLUDEDIR BASE_DIRECTORY "${CMAKE_INSTALL_FULL_LIBDIR}/pkgconfig"
    OUTPUT_VARIABLE pc_includedir)
configure_file(cmake/harena.pc.in harena.pc @ONLY)
install(FILES "${PROJECT_BINARY_DIR}/harena.pc" DESTINATION "${CMAKE_INSTALL_LIBDIR}/pkgconfig")
