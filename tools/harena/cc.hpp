// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <vector>

#include "harena/base/result.hpp"

namespace harena::tool {

struct CcOptions {
    std::string source;
    /// Empty: the source's name with .o for .c, in the current folder.
    std::string output;
    /// Given to clang after the tool's own flags.
    std::vector<std::string> flags;
};

/// The clang that compiles BPF C: $HARENA_CLANG, or the first of clang-19, clang-22, … in PATH; empty if there is none.
[[nodiscard]] std::string find_bpf_clang();

/// The folder to include <harena/arena.h> from.
[[nodiscard]] std::string bpf_include_folder();

/// Compiles one BPF C file; clang's own messages go to stderr. Errors: ENOENT (no clang, no source), EINVAL (does not
/// compile).
Result<void> compile(const CcOptions& options);

/// `harena cc`. Returns the exit status.
int run_cc(const CcOptions& options);

}  // namespace harena::tool
