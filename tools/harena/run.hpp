// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <optional>
#include <string>

namespace harena::tool {

struct RunCommand {
    /// An object, or BPF C (a name that ends in .c), which is compiled first.
    std::string file;
    /// Empty: the only program that is loaded by default.
    std::string program;
    /// File with the bytes that the program's context points to; empty: no bytes.
    std::string context_file;
    std::uint64_t budget_ms = 250;
    std::optional<std::uint64_t> arena_address;
    /// In the running kernel instead of this process.
    bool in_kernel = false;
    /// Errors have the whole log of the kernel's verifier.
    bool verbose = false;
    bool json = false;
};

/// `harena run`. Returns the exit status.
int run_program(const RunCommand& command);

}  // namespace harena::tool
