# SPDX-License-Identifier: Apache-2.0
# Targets of the project: one library a layer, its unit tests and its benchmarks; fuzz targets.

# harena_layer(NAME <layer> [DEPS harena::<layer>...] [LIBS <target>...] SOURCES <file>...
#              [TESTS <file>...] [BENCHES <file>...] [TEST_LIBS <target>...] [BENCH_LIBS <target>...])
#
# Makes
#   harena_<layer>        static library, alias and exported name harena::<layer>; an interface library if SOURCES has
#                         only headers. DEPS and LIBS are public.
#   harena_<layer>_tests  GoogleTest executable of TESTS, each case a ctest test (if HARENA_BUILD_TESTS)
#   harena_<layer>_bench  benchmark executable of BENCHES, one of which has main() (if HARENA_BUILD_BENCHES)
# DEPS may name lower layers only.
function(harena_layer)
    cmake_parse_arguments(PARSE_ARGV 0 arg "" "NAME" "DEPS;LIBS;SOURCES;TESTS;BENCHES;TEST_LIBS;BENCH_LIBS")
    if(arg_UNPARSED_ARGUMENTS)
        message(FATAL_ERROR "harena_layer(${arg_NAME}): unknown arguments: ${arg_UNPARSED_ARGUMENTS}")
    endif()
    if(NOT arg_NAME IN_LIST HARENA_LAYERS)
        message(FATAL_ERROR "harena_layer: NAME '${arg_NAME}' is not one of HARENA_LAYERS (${HARENA_LAYERS})")
    endif()
    _harena_check_layer_order("${arg_NAME}" "${arg_DEPS}")

    set(library "harena_${arg_NAME}")
    set(compiled "${arg_SOURCES}")
    list(FILTER compiled INCLUDE REGEX "\\.(cpp|c|S)$")
    if(compiled)
        add_library("${library}" STATIC ${arg_SOURCES})
        set(scope PUBLIC)
    else()
        add_library("${library}" INTERFACE)
        set(scope INTERFACE)
    endif()
    add_library("harena::${arg_NAME}" ALIAS "${library}")
    set_target_properties("${library}" PROPERTIES EXPORT_NAME "${arg_NAME}")
    target_compile_features("${library}" ${scope} cxx_std_23)
    target_include_directories("${library}" ${scope}
        "$<BUILD_INTERFACE:${PROJECT_SOURCE_DIR}>" "$<INSTALL_INTERFACE:${CMAKE_INSTALL_INCLUDEDIR}>")
    target_link_libraries("${library}" ${scope} ${arg_DEPS} ${arg_LIBS} Threads::Threads)
    if(HARENA_DEBUG_CHECKS)
        # Public: inline functions in headers must be the same in the library and in its users.
        target_compile_definitions("${library}" ${scope} HARENA_DEBUG_CHECKS=1)
    endif()

    set_property(GLOBAL APPEND PROPERTY HARENA_BUILT_LAYERS "${arg_NAME}")
    set_property(GLOBAL APPEND PROPERTY HARENA_BUILT_LIBS ${arg_LIBS})
    if(compiled)
        set_property(GLOBAL APPEND PROPERTY HARENA_BUILT_ARCHIVES "${library}")
    endif()
    if(HARENA_INSTALL)
        install(TARGETS "${library}" EXPORT harenaTargets ARCHIVE DESTINATION "${CMAKE_INSTALL_LIBDIR}")
        install(DIRECTORY "${CMAKE_CURRENT_SOURCE_DIR}/"
            DESTINATION "${CMAKE_INSTALL_INCLUDEDIR}/harena/${arg_NAME}"
            FILES_MATCHING PATTERN "*.hpp" PATTERN "*.h"
            PATTERN "testdata" EXCLUDE PATTERN "test_*" EXCLUDE PATTERN "*_test*" EXCLUDE PATTERN "*_bench*" EXCLUDE)
    endif()

    if(arg_TESTS AND HARENA_BUILD_TESTS)
        harena_test_executable(NAME "${library}_tests" SOURCES ${arg_TESTS} LIBS "harena::${arg_NAME}" ${arg_TEST_LIBS}
            LABEL "${arg_NAME}")
    endif()
    if(arg_BENCHES AND HARENA_BUILD_BENCHES)
        add_executable("${library}_bench" ${arg_BENCHES})
        target_link_libraries("${library}_bench" PRIVATE "harena::${arg_NAME}" benchmark::benchmark ${arg_BENCH_LIBS})
    endif()
endfunction()

# harena_test_executable(NAME <target> SOURCES <file>... [LIBS <target>...] [LABEL <label>] [TIMEOUT <seconds>]
#                        [PROCESSORS <count>])
#
# A GoogleTest executable; each of its cases is a ctest test with the label and the timeout (default 300 s), that keeps
# so many processors busy (default 1).
function(harena_test_executable)
    cmake_parse_arguments(PARSE_ARGV 0 arg "" "NAME;LABEL;TIMEOUT;PROCESSORS" "SOURCES;LIBS")
    if(arg_UNPARSED_ARGUMENTS)
        message(FATAL_ERROR "harena_test_executable(${arg_NAME}): unknown arguments: ${arg_UNPARSED_ARGUMENTS}")
    endif()
    if(NOT arg_TIMEOUT)
        set(arg_TIMEOUT 300)
    endif()
    if(NOT arg_PROCESSORS)
        set(arg_PROCESSORS 1)
    endif()
    add_executable("${arg_NAME}" ${arg_SOURCES})
    target_include_directories("${arg_NAME}" PRIVATE "${PROJECT_SOURCE_DIR}")
    target_link_libraries("${arg_NAME}" PRIVATE ${arg_LIBS} GTest::gtest_main)
    # Tests are compiled in half the time this way, and most of the time of `./dev test` is that.
    if(HARENA_SANITIZE)
        target_compile_options("${arg_NAME}" PRIVATE -O0)
    else()
        target_compile_options("${arg_NAME}" PRIVATE "$<$<CONFIG:RelWithDebInfo>:-O1;-g1>")
    endif()
    gtest_discover_tests("${arg_NAME}" DISCOVERY_TIMEOUT 120
        PROPERTIES TIMEOUT "${arg_TIMEOUT}" LABELS "${arg_LABEL}" PROCESSORS "${arg_PROCESSORS}")
endfunction()

# harena_fuzz_target(NAME fuzz_<what> SOURCES <file>... [LIBS <target>...])
#
# A libFuzzer executable, for tests/fuzz/CMakeLists.txt. Its seeds are in tests/fuzz/corpus/fuzz_<what>/;
# `./dev fuzz` finds it by its name.
function(harena_fuzz_target)
    cmake_parse_arguments(PARSE_ARGV 0 arg "" "NAME" "SOURCES;LIBS")
    if(NOT arg_NAME MATCHES "^fuzz_" OR arg_UNPARSED_ARGUMENTS)
        message(FATAL_ERROR "harena_fuzz_target: NAME must begin with fuzz_: '${arg_NAME}' ${arg_UNPARSED_ARGUMENTS}")
    endif()
    add_executable("${arg_NAME}" ${arg_SOURCES})
    target_include_directories("${arg_NAME}" PRIVATE "${PROJECT_SOURCE_DIR}")
    target_link_libraries("${arg_NAME}" PRIVATE ${arg_LIBS})
    target_link_options("${arg_NAME}" PRIVATE -fsanitize=fuzzer)
    set_target_properties("${arg_NAME}" PROPERTIES RUNTIME_OUTPUT_DIRECTORY "${PROJECT_BINARY_DIR}/tests/fuzz")
endfunction()

# Stops the configuration if a layer depends on itself or on a layer above it.
function(_harena_check_layer_order layer deps)
    list(FIND HARENA_LAYERS "${layer}" own_index)
    foreach(dep IN LISTS deps)
        string(REGEX REPLACE "^harena::" "" dep_layer "${dep}")
        list(FIND HARENA_LAYERS "${dep_layer}" dep_index)
        if(dep_index EQUAL -1)
            message(FATAL_ERROR "harena_layer(${layer}): DEPS takes layers (harena::<layer>); move '${dep}' to LIBS")
        elseif(NOT dep_index LESS own_index)
            message(FATAL_ERROR "harena_layer(${layer}): '${dep}' is not below '${layer}' in the order ${HARENA_LAYERS}")
        endif()
    endforeach()
endfunction()
