// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "harena/base/os/sys_result.hpp"
#include "harena/base/page_math.hpp"
#include "harena/base/result.hpp"
#include "harena/bpf/map.hpp"
#include "harena/kernel/map_memory.hpp"

namespace harena::kernel {

/// An arena map of the kernel, and its mapping in this process at `user_vm_start`. Forked children
/// have an inaccessible reservation instead of the mapping.
class ArenaMapping {
public:
    /// Errors: EINVAL, E2BIG, ERANGE (crosses 4 GiB), EEXIST (another mapping is there: named), ENOMEM; EPERM; a kernel
    /// without arenas is named.
    [[nodiscard]] static Result<ArenaMapping> create(const bpf::MapDefinition& definition);

    [[nodiscard]] int fd() const noexcept { return fd_.get(); }
    [[nodiscard]] std::byte* data() const noexcept { return memory_.data(); }

private:
    ArenaMapping(os::FileDescriptor fd, MapMemory memory) noexcept : fd_{std::move(fd)}, memory_{std::move(memory)} {}

    os::FileDescriptor fd_;
    MapMemory memory_;
};

}  // namespace harena::kernel
