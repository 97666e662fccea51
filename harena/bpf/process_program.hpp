// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>

#include "harena/base/fork.hpp"
#include "harena/bpf/image.hpp"
#include "harena/bpf/process_map.hpp"
#include "harena/bpf/program.hpp"

namespace harena::bpf {

/// A program that runs in this process.
class ProcessProgram final : public Program {
public:
    ProcessProgram(std::shared_ptr<const Image> image, const Function& function) noexcept
        : image_{std::move(image)}, function_{function} {}

    [[nodiscard]] const std::string& name() const noexcept override { return function_.name; }
    [[nodiscard]] ProgramType type() const noexcept override { return function_.type; }
    [[nodiscard]] Result<RunResult> run(std::span<std::byte> context, const RunOptions& options) override;
    [[nodiscard]] const FaultLog& fault_log() const noexcept override { return log_; }

    /// EOWNERDEAD in a child after fork.
    [[nodiscard]] Result<void> check_owner() const { return fork_guard_.check(fmt::format("program '{}'", name())); }
    /// What a tail call to this program runs.
    [[nodiscard]] ProgramArray::Target target() const { return {image_, &function_}; }

private:
    std::shared_ptr<const Image> image_;
    const Function& function_;  // in the image's file
    FaultLog log_;
    ForkGuard fork_guard_;
};

}  // namespace harena::bpf
