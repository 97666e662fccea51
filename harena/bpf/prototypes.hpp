// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string_view>

#include "harena/bpf/insn.hpp"
#include "harena/bpf/value.hpp"

namespace harena::bpf {

class HelperCall;

/// What an argument of a helper or kfunc must be.
enum class ArgKind : std::uint8_t {
    none,
    scalar,            ///< a number, 64 bits
    scalar32,          ///< a number, the low 32 bits
    optional_scalar,   ///< anything, and a number or an arena pointer if the helper needs it: of a variable number of
                       ///< arguments
    address,           ///< a number or an arena pointer
    context,           ///< the program's context
    map,               ///< a map with elements
    arena_map,         ///< the program's arena
    program_array,     ///< a map of type PROG_ARRAY
    map_key,           ///< memory of the map's key size, read
    map_value,         ///< memory of the map's value size, read
    input,             ///< memory, read; its size is the next argument
    output,            ///< memory, written; its size is the next argument
    size,              ///< bytes of the argument before
    c_string,          ///< memory up to a zero byte, or to the size of argument 1, read
    callback,          ///< a function of the program
    callback_context,  ///< a pointer into the stack, or NULL
};

enum class ResultKind : std::uint8_t {
    nothing,  ///< r0 is unset afterwards
    scalar,
    map_value_or_null,
};

/// A function that programs can call. One table for interpreter, documentation and, later, verifier and JIT.
struct Prototype {
    std::string_view name;
    std::int32_t id;  ///< number of a helper; 0 for a kfunc, which is called by name
    std::array<ArgKind, k_max_arguments> arguments;
    ResultKind result;
    std::string_view errors;  ///< negative errno values of r0, or what else tells failure
    bool may_block;           ///< takes a lock or makes a system call
    Value (*function)(HelperCall& call);
};

inline constexpr std::int32_t k_helper_tail_call = 12;  // done by the engine itself

[[nodiscard]] std::span<const Prototype> helper_table() noexcept;
[[nodiscard]] std::span<const Prototype> kfunc_table() noexcept;
[[nodiscard]] const Prototype* find_helper(std::int32_t id) noexcept;
[[nodiscard]] const Prototype* find_kfunc(std::string_view name) noexcept;

}  // namespace harena::bpf
