// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <mutex>
#include <optional>
#include <vector>

#include "harena/base/os/sys_result.hpp"
#include "harena/base/result.hpp"
#include "harena/base/types.hpp"

namespace harena::kernel {

/// The kernel's calls on an arena, for the host: Linux has them for programs only, so small programs make them, written
/// here instruction by instruction. Results are the kernel's, quirks included. Thread-safe.
class ArenaCalls {
public:
    /// Loads the program that allocates, frees and reserves. `map` is the arena's, mapped. Errors: those of loading a
    /// program; ENOTSUP (a kernel without arena kfuncs).
    [[nodiscard]] static Result<ArenaCalls> create(int map);

    /// The address, or 0.
    [[nodiscard]] Result<std::uint64_t> alloc_pages(std::uint64_t address, std::uint32_t count, int node) const;
    Result<void> free_pages(std::uint64_t address, std::uint32_t count) const;
    /// 0 or a negative errno value. ENOTSUP before Linux 6.17.
    [[nodiscard]] Result<std::int32_t> reserve_pages(std::uint64_t address, std::uint32_t count) const;

private:
    enum class Operation : std::uint64_t { alloc, free, reserve };

    ArenaCalls(os::FileDescriptor program, bool has_reserve) noexcept
        : program_{std::move(program)}, has_reserve_{has_reserve} {}
    [[nodiscard]] Result<std::uint64_t> call(Operation operation, std::uint64_t address, std::uint32_t count,
                                             int node) const;

    os::FileDescriptor program_;
    bool has_reserve_;
};

/// Tells which pages of an arena have memory, whoever touched them. Linux has no call for that, and mincore sees only
/// what the host has mapped: a program finds the arena's memory in the kernel and tries to read each page there.
class PresenceProbe {
public:
    /// Errors: those of loading a program; ENOTSUP (a kernel whose arenas look different).
    [[nodiscard]] static Result<PresenceProbe> create(int map);

    /// For each page from `begin` on, whether it is present. `user_vm_start` is the arena's.
    [[nodiscard]] Result<std::vector<bool>> present(std::uint64_t user_vm_start, PageRange pages) const;
    /// Where the kernel has the arena's memory: the byte of user pointer 0. Only for telling what an address in the
    /// kernel means; the host cannot reach it.
    [[nodiscard]] Result<std::uint64_t> kernel_base() const;

private:
    explicit PresenceProbe(os::FileDescriptor program) noexcept : program_{std::move(program)} {}

    os::FileDescriptor program_;
};

}  // namespace harena::kernel
