// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <optional>

#include "harena/base/not_inherited.hpp"
#include "harena/base/os/sys_result.hpp"
#include "harena/base/page_math.hpp"
#include "harena/base/result.hpp"
#include "harena/bpf/map.hpp"

namespace harena::kernel {

/// An arena map of the kernel, and its mapping in this process at `user_vm_start`. Forked children
/// have an inaccessible reservation instead of the mapping.
class ArenaMapping {
public:
    /// Errors: EINVAL, E2BIG, ERANGE (crosses 4 GiB), EEXIST (another mapping is there: named), ENOMEM; EPERM; a kernel
    /// without arenas is named.
    [[nodiscard]] static Result<ArenaMapping> create(const bpf::MapDefinition& definition);
    ArenaMapping(ArenaMapping&& other) noexcept;
    ArenaMapping& operator=(ArenaMapping&&) = delete;
    ArenaMapping(const ArenaMapping&) = delete;
    ArenaMapping& operator=(const ArenaMapping&) = delete;
    ~ArenaMapping();

    [[nodiscard]] int fd() const noexcept { return fd_.get(); }
    [[nodiscard]] std::byte* data() const noexcept { return data_; }
    [[nodiscard]] std::uint64_t bytes() const noexcept { return bytes_; }

private:
    ArenaMapping(os::FileDescriptor fd, std::byte* data, std::uint64_t bytes) noexcept
        : fd_{std::move(fd)}, data_{data}, bytes_{bytes} {}

    os::FileDescriptor fd_;
    std::byte* data_;
    std::uint64_t bytes_;
    std::optional<NotInherited> not_inherited_;
};

}  // namespace harena::kernel
