// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <span>

#include "harena/base/fork.hpp"
#include "harena/base/os/sys_result.hpp"
#include "harena/bpf/object_file.hpp"
#include "harena/bpf/program.hpp"
#include "harena/kernel/program_group.hpp"

namespace harena::kernel {

/// A program in the kernel.
class KernelProgram final : public bpf::Program {
public:
    /// `function` is one of the group's file.
    KernelProgram(os::FileDescriptor fd, std::shared_ptr<ProgramGroup> group, const bpf::Function& function) noexcept
        : fd_{std::move(fd)}, group_{std::move(group)}, function_{function} {}

    [[nodiscard]] int fd() const noexcept { return fd_.get(); }
    [[nodiscard]] const std::string& name() const noexcept override { return function_.name; }
    [[nodiscard]] bpf::ProgramType type() const noexcept override { return function_.type; }
    /// As declared, but: the budget is the kernel's (250 ms for the loops of a function), a context has at most 65,535
    /// bytes, and there are no errors of a running program but EINVAL (the context is too small for it) and ENOMEM.
    [[nodiscard]] Result<bpf::RunResult> run(std::span<std::byte> context, const bpf::RunOptions& options) override;
    /// Why `RunResult::faults_known` is false on this thread, if it is so in every run.
    [[nodiscard]] Result<void> counts_faults() const;
    [[nodiscard]] const bpf::FaultLog& fault_log() const noexcept override { return log_; }

private:
    os::FileDescriptor fd_;
    std::shared_ptr<ProgramGroup> group_;
    const bpf::Function& function_;
    bpf::FaultLog log_;
    ForkGuard fork_guard_;
};

}  // namespace harena::kernel
