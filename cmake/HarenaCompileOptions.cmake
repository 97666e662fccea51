# SPDX-License-Identifier: Apache-2.0
# Compile and link options of every target in this tree (and of no target outside it).

add_compile_options(
    "$<$<COMPILE_LANGUAGE:C,CXX>:-Wall;-Wextra;-Wpedantic;-Wshadow;-Wconversion;-Wsign-conversion>"
    "$<$<COMPILE_LANGUAGE:CXX>:-Wold-style-cast;-Wnon-virtual-dtor>")
if(HARENA_WERROR)
    add_compile_options("$<$<COMPILE_LANGUAGE:C,CXX>:-Werror>")
endif()

if(HARENA_SANITIZE)
    add_compile_options(
        "$<$<COMPILE_LANGUAGE:C,CXX>:-fsanitize=${HARENA_SANITIZE};-fno-omit-frame-pointer;-fno-sanitize-recover=all>")
    add_link_options("-fsanitize=${HARENA_SANITIZE}")
    if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
        # GCC loses track of initialisation through the code that the sanitizers insert. The release build has no
        # sanitizer and keeps this warning as an error.
        add_compile_options("$<$<COMPILE_LANGUAGE:C,CXX>:-Wno-error=maybe-uninitialized>")
    endif()
    if(HARENA_SANITIZE MATCHES "thread" AND CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
        # std::atomic_thread_fence is not modelled by the thread sanitizer; GCC says so for each use in any header.
        add_compile_options("$<$<COMPILE_LANGUAGE:C,CXX>:-Wno-tsan>")
    endif()
endif()

if(HARENA_BUILD_FUZZERS)
    if(NOT CMAKE_CXX_COMPILER_ID STREQUAL "Clang")
        message(FATAL_ERROR "HARENA_BUILD_FUZZERS needs Clang, for libFuzzer: configure with `cmake --preset fuzz`")
    endif()
    add_compile_options("$<$<COMPILE_LANGUAGE:C,CXX>:-fsanitize=fuzzer-no-link>")
    add_link_options(-fsanitize=fuzzer-no-link)
endif()
