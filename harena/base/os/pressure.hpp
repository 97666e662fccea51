// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>

#include "harena/base/os/sys_result.hpp"

/// Pressure stall information: the kernel says when processes wait for memory. Thread-safe.
namespace harena::os {

/// Asks to be told when some process has waited for memory for `stall_us` within `window_us` microseconds. `file` is
/// /proc/pressure/memory, or memory.pressure of a cgroup. Errors: ENOENT, EOPNOTSUPP (a kernel without it), EPERM,
/// EACCES, EINVAL (bad times; without CAP_SYS_RESOURCE, the window is a multiple of 2 s).
[[nodiscard]] SysResult<FileDescriptor> open_pressure_trigger(const std::string& file, std::uint64_t stall_us,
                                                              std::uint64_t window_us) noexcept;

/// A descriptor that `wake` makes readable.
[[nodiscard]] SysResult<FileDescriptor> eventfd() noexcept;
SysResult<void> wake(int eventfd) noexcept;

enum class Woken : std::uint8_t {
    by_event,  // of the trigger
    by_wake,
    by_end,  // there will be no more events
};

/// Waits for an event of `trigger`, or for `wake(stop)`.
[[nodiscard]] SysResult<Woken> wait_for_event(int trigger, int stop) noexcept;

}  // namespace harena::os
