// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <csignal>
#include <cstddef>
#include <cstdint>
#include <mutex>

#include "harena/arena/presence.hpp"
#include "harena/base/result.hpp"
#include "harena/base/signal_safe_registry.hpp"

/// Who faulted, and what happens then. docs/arena.md has the whole argument.
namespace harena::fault_handler {

/// An arena as the signal handler finds it.
struct Region {
    std::uint64_t begin;
    std::uint64_t bytes;
    /// Followed only for a fault inside the arena: one that is being destroyed by another thread is in no fault's way.
    Presence* presence;
};
using Regions = SignalSafeRegistry<Region>;

/// Installs the handlers of SIGBUS and SIGSEGV and those of fork, once for the process. What was installed before is
/// kept and gets every signal that is not the arenas'. Errors: those of sigaction. Thread-safe.
Result<void> install();

/// No fork happens as long as the lock is held: between a mapping's creation and `add`, a child would inherit it.
[[nodiscard]] std::unique_lock<std::mutex> block_forks();

/// Makes an arena known to the handler. Errors: ENOMEM. Thread-safe.
[[nodiscard]] Result<Regions::Handle> add(const Region& region);
void remove(Regions::Handle handle) noexcept;

/// What a host with handlers of its own calls from them: true if the fault was an arena's or a program's and is dealt
/// with, so that the handler returns; false if it is the host's. Async-signal-safe.
[[nodiscard]] bool handle(int signal, siginfo_t* info, void* context) noexcept;

/// Makes sure that this thread can run programs and touch absent pages: SIGBUS and SIGSEGV must be unblocked (EPERM if
/// not), and an alternate signal stack is set up if the thread has none. Checked once a thread, then free.
Result<void> prepare_thread();

}  // namespace harena::fault_handler
