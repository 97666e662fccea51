// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>

#include "harena/base/os/sys_result.hpp"

/// What the kernel is and offers to this process: questions asked once, for messages to people. Thread-safe.
namespace harena::os {

/// The running kernel's release, such as "6.1.0-18-amd64".
[[nodiscard]] std::string kernel_release();

/// How many pages of memory the machine has.
[[nodiscard]] std::uint64_t memory_pages() noexcept;

/// The calling thread's effective capabilities: bit i is CAP_* number i.
[[nodiscard]] SysResult<std::uint64_t> effective_capabilities() noexcept;

/// Makes a memfd_secret and closes it. Errors: ENOSYS (switched off at boot, or older than Linux 5.14), EPERM.
SysResult<void> try_memfd_secret() noexcept;

/// Makes an arena map of one page in the kernel and closes it. Errors: EPERM (not allowed to this user), EINVAL (older
/// than Linux 6.9, or built without it), ENOSYS.
SysResult<void> try_kernel_arena() noexcept;

}  // namespace harena::os
