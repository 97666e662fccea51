// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "harena/base/os/sys_result.hpp"
#include "harena/base/result.hpp"
#include "harena/kernel/map_memory.hpp"

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
        bool complete = true;         // false: the process had more than are kept, and some may be missing
    };

    /// Set up once a process, when it is first asked for; a child after fork has one of its own. Errors: ENOTSUP (a
    /// machine without that tracepoint), those of loading and attaching a program. Thread-safe.
    [[nodiscard]] static Result<const FaultTap*> get();

    /// Number of faults of the process so far: where `since` begins to look.
    [[nodiscard]] std::uint64_t position() const noexcept;
    /// The calling thread, as the kernel knows it: in a PID namespace, not by the number that it has here. Errors:
    /// those of running a program. Thread-safe.
    [[nodiscard]] Result<std::uint64_t> this_thread() const;
    /// The faults of `thread` since `position` was `begin`. Thread-safe.
    [[nodiscard]] Records since(std::uint64_t begin, std::uint64_t thread) const;

private:
    FaultTap(os::FileDescriptor who, os::FileDescriptor attached, MapMemory memory) noexcept
        : who_{std::move(who)}, attached_{std::move(attached)}, memory_{std::move(memory)} {}
    [[nodiscard]] static Result<std::unique_ptr<FaultTap>> create();

    os::FileDescriptor who_;       // says which thread runs it
    os::FileDescriptor attached_;  // the tracing program, while it is open
    MapMemory memory_;
};

}  // namespace harena::kernel
