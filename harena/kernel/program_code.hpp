// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <linux/bpf.h>

#include <cstdint>
#include <optional>
#include <string_view>
#include <vector>

#include "harena/base/result.hpp"
#include "harena/bpf/insn.hpp"
#include "harena/bpf/object_file.hpp"
#include "harena/kernel/object_btf.hpp"

namespace harena::kernel {

/// What the references of an object's instructions stand for in the kernel. Each list is as that of `ObjectFile`.
struct Targets {
    std::vector<int> maps;                 // descriptors
    std::vector<int> data;                 // descriptors of the maps that hold the sections; -1 for the arena's
    std::vector<std::uint64_t> addresses;  // of the arena's sections
    std::vector<std::uint32_t> externs;    // numbers in the kernel's types; 0: the kernel does not have it
    std::optional<std::uint32_t> arena;    // index in `ObjectFile::maps`
};

/// One program as the kernel wants it: its function first, then the functions that it reaches.
struct ProgramCode {
    std::vector<bpf::Insn> instructions;
    std::vector<std::uint32_t> origin;  // of each instruction, its index in `ObjectFile::instructions`
    std::vector<bpf_func_info> functions;
    /// One for each instruction. Their columns are not the source's: they have the low bits of the instruction's index,
    /// by which a record is known again after the kernel has removed and inserted instructions. Higher bits are in
    /// the number of blanks before the source text, which who prints it leaves out.
    std::vector<bpf_line_info> lines;
};

/// Puts a program together. Errors: EINVAL (a kfunc or variable that the kernel does not have: named; an object made by
/// hand that is wrong), E2BIG (more functions than Linux takes).
[[nodiscard]] Result<ProgramCode> assemble(const bpf::ObjectFile& file, const bpf::Function& program,
                                           const Targets& targets, const ObjectBtf& btf);

/// The version of Linux that a kfunc came with, such as "6.17"; empty for one that is not known.
[[nodiscard]] std::string_view introduced_in(std::string_view kfunc) noexcept;

}  // namespace harena::kernel
