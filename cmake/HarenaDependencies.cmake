# SPDX-License-Identifier: Apache-2.0
# External packages, found once for all layers. harenaConfig.cmake.in finds again what the installed libraries need.
#
# Targets for the LIBS of a layer: PkgConfig::LIBELF, PkgConfig::LIBBPF, fmt::fmt, nlohmann_json::nlohmann_json,
# CLI11::CLI11 (tools only).

find_package(PkgConfig REQUIRED)
pkg_check_modules(LIBELF REQUIRED IMPORTED_TARGET libelf)
pkg_check_modules(LIBBPF REQUIRED IMPORTED_TARGET libbpf>=1.1)
find_package(Threads REQUIRED)
find_package(fmt REQUIRED)
find_package(nlohmann_json REQUIRED)
if(HARENA_BUILD_TOOLS OR HARENA_BUILD_EXAMPLES)
    find_package(CLI11 REQUIRED)
endif()
if(HARENA_BUILD_TESTS)
    find_package(GTest REQUIRED)
    include(GoogleTest)
endif()
if(HARENA_BUILD_BENCHES)
    find_package(benchmark REQUIRED)
    find_package(mimalloc REQUIRED)
    find_package(asmjit REQUIRED)
    pkg_check_modules(LIBSODIUM REQUIRED IMPORTED_TARGET libsodium)
endif()
if(HARENA_BUILD_BENCHES OR HARENA_BUILD_EXAMPLES)
    find_package(OpenSSL 3.0 REQUIRED)
endif()
