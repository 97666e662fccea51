// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <csignal>

#include "harena/base/result.hpp"

/// SIGBUS and SIGSEGV of the process, shared with whoever had them before.
namespace harena::chained_signals {

using Handler = void (*)(int signal, siginfo_t* info, void* context) noexcept;

/// Installs `handler` for SIGBUS and SIGSEGV on the alternate stack and keeps what was there. Call once.
/// Errors: those of sigaction.
Result<void> install(Handler handler);

/// Gives a signal that is not ours to what was installed before, as the kernel would have: its handler with the same
/// arguments and its mask, or the default action, or none. Async-signal-safe; may not return.
void pass_on(int signal, siginfo_t* info, void* context) noexcept;

/// Turns the SIGBUS of a refused page into the host's SIGSEGV at the same instruction and address: it arrives when the
/// handler returns, at whatever handles SIGSEGV then. Async-signal-safe.
void turn_into_segv(const siginfo_t* info, void* context) noexcept;

}  // namespace harena::chained_signals
