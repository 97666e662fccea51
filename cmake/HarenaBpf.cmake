# SPDX-License-Identifier: Apache-2.0
# Compiling BPF C at build time.

find_program(HARENA_BPF_CLANG NAMES clang-19 clang-22 clang DOC "Clang that compiles BPF C (19 or later)")

# harena_bpf_object(<out-var> <source.bpf.c> [OUTPUT <name>] [MCPU v1|v2|v3|v4] [FLAGS <flag>...])
#
# Compiles one BPF C file to ${CMAKE_CURRENT_BINARY_DIR}/<name>.bpf.o as part of `all` and sets <out-var> to that path.
# OUTPUT is the name without .bpf.o (default: that of the source), MCPU the instruction set version (default v4), so
# that one source can be built in several variants. The source may include <harena/...> from include-bpf and, with
# quotes, any file by its path from the repository root.
function(harena_bpf_object out_var source)
    cmake_parse_arguments(PARSE_ARGV 2 arg "" "OUTPUT;MCPU" "FLAGS")
    if(arg_UNPARSED_ARGUMENTS)
        message(FATAL_ERROR "harena_bpf_object(${source}): unknown arguments: ${arg_UNPARSED_ARGUMENTS}")
    endif()
    if(NOT HARENA_BPF_CLANG)
        message(FATAL_ERROR
            "No clang found to compile ${source}: install clang-19 (./dev setup), or set HARENA_BPF_CLANG to a Clang "
            "of version 19 or later")
    endif()
    if(NOT arg_MCPU)
        set(arg_MCPU v4)
    endif()
    if(NOT arg_OUTPUT)
        cmake_path(GET source FILENAME arg_OUTPUT)
        string(REGEX REPLACE "(\\.bpf)?\\.c$" "" arg_OUTPUT "${arg_OUTPUT}")
    endif()
    cmake_path(ABSOLUTE_PATH source BASE_DIRECTORY "${CMAKE_CURRENT_SOURCE_DIR}" NORMALIZE)
    set(object "${CMAKE_CURRENT_BINARY_DIR}/${arg_OUTPUT}.bpf.o")
    cmake_path(RELATIVE_PATH object BASE_DIRECTORY "${PROJECT_BINARY_DIR}" OUTPUT_VARIABLE relative_object)

    # <asm/types.h> is in the multiarch folder, which clang does not search for the BPF target.
    set(asm_include "")
    if(CMAKE_LIBRARY_ARCHITECTURE)
        set(asm_include -idirafter "/usr/include/${CMAKE_LIBRARY_ARCHITECTURE}")
    endif()

    # Clang copies source lines into .BTF.ext by opening the recorded (mapped) path: the command runs in the root, where
    # a repository-relative path exists. Inputs are absolute, because the paths in a depfile must be.
    add_custom_command(
        OUTPUT "${object}"
        COMMAND "${HARENA_BPF_CLANG}" -target bpf "-mcpu=${arg_MCPU}" -O2 -g -Wall -Werror
            -I "${PROJECT_SOURCE_DIR}/include-bpf" -iquote "${PROJECT_SOURCE_DIR}" ${asm_include}
            "-ffile-prefix-map=${PROJECT_SOURCE_DIR}/=" -fdebug-compilation-dir=.
            ${arg_FLAGS} -MD -MF "${object}.d" -c "${source}" -o "${object}"
        DEPENDS "${source}"
        DEPFILE "${object}.d"
        WORKING_DIRECTORY "${PROJECT_SOURCE_DIR}"
        COMMENT "Building BPF object ${relative_object}"
        COMMAND_EXPAND_LISTS VERBATIM)
    string(MAKE_C_IDENTIFIER "bpf_${relative_object}" target)
    add_custom_target("${target}" ALL DEPENDS "${object}")
    set("${out_var}" "${object}" PARENT_SCOPE)
endfunction()
