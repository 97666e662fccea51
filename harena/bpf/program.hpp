// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "harena/base/result.hpp"
#include "harena/bpf/fault.hpp"
#include "harena/bpf/object_file.hpp"

namespace harena::bpf {

struct RunOptions {
    /// Wall time after which every `may_goto` of the run takes its exit; a program that goes on without one is ended
    /// with ETIMEDOUT after `grace_ns` more. Measured in ticks of a millisecond. 0 is used up at the first tick.
    /// The kernel engine has Linux's own instead, 250 ms for the loops of a function, whatever is asked here.
    std::uint64_t budget_ns = 250'000'000;
    /// CPU time of the running thread: a thread that other work keeps off the processor is not ended for it.
    std::uint64_t grace_ns = 10'000'000;
    /// The same in instructions, exact: `may_goto` takes its exit after `max_instructions`, and after as many again the
    /// next back edge or call ends the run with ETIMEDOUT. Not in the kernel engine.
    std::optional<std::uint64_t> max_instructions = std::nullopt;
    /// Fill in `RunResult::duration_ns` (two clock reads).
    bool measure_time = false;
};

struct RunResult {
    /// The low 32 bits of r0, as in Linux.
    std::uint32_t return_value = 0;
    /// Accesses to absent arena pages in this run, and the last of them, oldest first (`FaultLog::k_kept` at most).
    std::uint64_t fault_count = 0;
    std::vector<Fault> faults;
    /// False if `fault_count` may be too small. Kernel engine only: where page faults cannot be traced, where it does
    /// not show where programs are, and when the process had more than 16,384 of them in the run.
    bool faults_known = true;
    std::uint64_t duration_ns = 0;
    /// A `may_goto` took its exit because the budget was used up: the program may have given half a result. Not known
    /// in the kernel engine (false).
    bool out_of_time = false;
};

/// A loaded program, ready to run. Belongs to its `Object`. All functions are thread-safe.
class Program {
public:
    Program() = default;
    Program(const Program&) = delete;
    Program& operator=(const Program&) = delete;
    virtual ~Program() = default;

    [[nodiscard]] virtual const std::string& name() const noexcept = 0;
    [[nodiscard]] virtual ProgramType type() const noexcept = 0;

    /// Runs the program once on this thread. `context` is what r1 points to (for `syscall` programs any bytes); the
    /// program may change it.
    /// Errors: EFAULT (an access outside what it points into), EACCES (something done to a value that its kind does not
    /// allow), ETIMEDOUT (over its budget), EINVAL, E2BIG (calls too deep), EPERM (SIGBUS or SIGSEGV blocked at the
    /// thread's first run), ENOTSUP (this type of program cannot be run here), EOWNERDEAD (in a child after fork). The
    /// message names the instruction and the source line. Faults on absent arena pages are no errors.
    [[nodiscard]] virtual Result<RunResult> run(std::span<std::byte> context = {}, const RunOptions& options = {}) = 0;

    /// Faults of all runs.
    [[nodiscard]] virtual const FaultLog& fault_log() const noexcept = 0;
};

}  // namespace harena::bpf
