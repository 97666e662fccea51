// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <csignal>
#include <cstddef>
#include <cstdint>

#include "harena/base/os/sys_result.hpp"

/// The system calls about signals. All are async-signal-safe and thread-safe.
namespace harena::os {

/// Installs `action` (or only asks, if null) and returns the one before.
SysResult<struct sigaction> sigaction(int signal, const struct sigaction* action) noexcept;

/// Installs the alternate signal stack of this thread (or only asks, if null) and returns the one before.
SysResult<stack_t> sigaltstack(const stack_t* stack) noexcept;

/// Bytes of stack that the kernel takes for a signal on this processor.
[[nodiscard]] std::size_t minimal_signal_stack() noexcept;

/// Changes this thread's blocked signals (`how` as in pthread_sigmask; null only asks) and returns those before.
SysResult<sigset_t> thread_sigmask(int how, const sigset_t* signals) noexcept;

/// Queues `info` to this thread: the signal arrives when it is not blocked, with exactly these details.
SysResult<void> queue_signal_to_self(int signal, siginfo_t info) noexcept;

/// Gives the processor away. Async-signal-safe.
void yield_processor() noexcept;

/// Does nothing for about `ns` nanoseconds, less if a signal arrives. Async-signal-safe.
void nap(std::uint64_t ns) noexcept;

}  // namespace harena::os
