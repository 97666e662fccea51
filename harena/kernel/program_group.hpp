// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <vector>

#include "harena/base/os/bpf.hpp"
#include "harena/bpf/fault.hpp"
#include "harena/bpf/object_file.hpp"
#include "harena/kernel/fault_tap.hpp"
#include "harena/kernel/kernel_arena.hpp"
#include "harena/kernel/program_code.hpp"

namespace harena::kernel {

/// What the programs of one object share: where their machine code is, to tell faults of theirs from other page faults,
/// and in which instruction they were. A tail call leads from one program to another. Thread-safe once complete.
class ProgramGroup {
public:
    /// `arena` is null if the object has none.
    ProgramGroup(std::shared_ptr<const bpf::ObjectFile> file, std::shared_ptr<KernelArena> arena) noexcept
        : file_{std::move(file)}, arena_{std::move(arena)} {}

    /// Before the first run. `fd` stays the program's.
    void add(int fd, ProgramCode code) {
        members_.push_back({.fd = fd, .origin = std::move(code.origin), .lines = std::move(code.lines)});
    }

    /// The process's tap, or nullptr: programs that have no arena have no faults. Errors: those of `FaultTap::get`, and
    /// of finding the arena and the programs in the kernel; EPERM if it does not show where programs are.
    [[nodiscard]] Result<const FaultTap*> tap();

    /// What a record says if it is of an access of one of the programs to the arena. After `tap` succeeded.
    [[nodiscard]] std::optional<bpf::Fault> fault(const FaultTap::Record& record) const;

private:
    struct Member {
        int fd;
        std::vector<std::uint32_t> origin;  // as in `ProgramCode`
        std::vector<bpf_line_info> lines;
    };
    struct Line {
        std::uint64_t address;
        std::uint32_t insn;  // of the object
    };
    [[nodiscard]] Result<const FaultTap*> find_code();
    Result<void> find_code(const Member& member);

    std::shared_ptr<const bpf::ObjectFile> file_;
    std::shared_ptr<KernelArena> arena_;
    std::vector<Member> members_;

    std::once_flag once_;  // the rest is complete after it
    std::optional<Result<const FaultTap*>> tap_;
    std::uint64_t kernel_base_ = 0;
    std::vector<os::BpfCode> code_;  // by address
    std::vector<Line> lines_;        // by address
};

}  // namespace harena::kernel
