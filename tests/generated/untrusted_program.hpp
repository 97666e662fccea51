// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <random>
#include <span>
#include <string>
#include <vector>

#include "harena/bpf/insn.hpp"

namespace harena::bpf::test {

/// What `run_untrusted` gives a program to work with, by number.
enum class Resource : std::uint8_t {
    arena_map = 0,
    array_map = 1,
    hash_map = 2,
    program_array = 3,
    data = 4,
    function = 5,
    kfunc = 6
};

/// A ld_imm64 or a call that refers to something: `insn` is its index.
struct Use {
    std::uint32_t insn;
    Resource resource;
    std::uint32_t detail;  // which kfunc (0 to 2), or offset in the data section
};

/// Any instructions at all, cut into two functions at `split`.
struct UntrustedProgram {
    std::vector<Insn> code;
    std::vector<Use> uses;
    std::uint32_t split = 0;  // 0: one function
};

struct UntrustedOutcome {
    bool loaded = false;
    bool ran_to_end = false;
    std::string error;  // of load or run
    std::uint64_t faults = 0;
    /// Empty, or what the program has done to the host: memory changed outside what it was given, or an address of the
    /// host found in memory that programs can read.
    std::string harm;
};

/// Loads and runs a program with an arena, maps, a context and data of its own, and looks for what it must not have
/// done.
[[nodiscard]] UntrustedOutcome run_untrusted(const UntrustedProgram& program);

/// A program of well-formed instructions: jumps land on instructions, registers and fields are legal. What they do with
/// each other is left to chance, with a liking for pointers, their edges, and what is nearly right.
[[nodiscard]] UntrustedProgram generate_well_formed(std::mt19937_64& random);

/// A program of random bytes, or a well-formed one with some bytes changed.
[[nodiscard]] UntrustedProgram generate_malformed(std::mt19937_64& random);

}  // namespace harena::bpf::test
