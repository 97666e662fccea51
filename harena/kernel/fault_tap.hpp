// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "harena/base/fork.hpp"
#include "harena/base/os/sys_result.hpp"
#include "harena/base/result.hpp"

namespace harena::kernel {

/// Hears of the faults of this process's programs: a tracing program on the tracepoint `exceptions:page_fault_kernel`
/// writes each page fault that the kernel takes for this process into memory that both sides have.
///
/// Linux (from 6.18) reports faults to the program's error stream, but as text, 100,000 bytes at most, without saying
/// which run they are of, and not at all where it gets no memory without waiting.
class FaultTap {
public:
    struct Record {
        bool write;
        std::uint64_t address;      // in the kernel: of the first byte that is absent
        std::uint64_t instruction;  // in the kernel: of the machine instruction
    };
    struct Records {
        std::vector<Record> records;  // oldest first
        bool complete = true;         // false: there were more in the process than are kept
    };

    /// Set up once a process, when it is first asked for. Errors: ENOTSUP (a machine without that tracepoint; a
    /// child after fork of a process that has a tap),
    /// those of loading and attaching a program. Thread-safe.
    [[nodiscard]] static Result<const FaultTap*> get();

    /// Number of faults of the process so far: where `since` begins to look.
    [[nodiscard]] std::uint64_t position() const noexcept;
    /// The faults of the calling thread since `position` was `begin`. Thread-safe.
    [[nodiscard]] Records since(std::uint64_t begin) const;

private:
    FaultTap() = default;
    [[nodiscard]] static Result<FaultTap*> create();

    os::FileDescriptor map_;
    os::FileDescriptor program_;
    os::FileDescriptor attached_;
    std::byte* memory_ = nullptr;
    ForkGuard fork_guard_;
};

}  // namespace harena::kernel
