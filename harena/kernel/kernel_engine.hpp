// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

#include "harena/base/result.hpp"
#include "harena/bpf/engine.hpp"

namespace harena::kernel {

/// The engine of the running kernel: the same objects, on a real bpf_arena, verified and compiled by Linux
/// (docs/kernel.md). Always there; `load` fails with EPERM without CAP_BPF and CAP_PERFMON, and with an error that
/// names the version needed on a kernel that is too old. Thread-safe.
[[nodiscard]] bpf::Engine& engine() noexcept;

/// What this kernel lets the engine do, beyond loading and running.
struct EngineReport {
    /// Empty if faults of programs are counted; else why not (`RunResult::faults_known` is false).
    std::string no_faults;
};

/// Tries it: makes an arena, and runs small programs that allocate, look, read an absent page and free. Errors: EPERM
/// (the capabilities that are missing), and others that name what this kernel does not have. Thread-safe.
[[nodiscard]] Result<EngineReport> try_engine();

}  // namespace harena::kernel
