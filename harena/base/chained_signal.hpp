// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <csignal>

#include "harena/base/result.hpp"

namespace harena {

/// One signal of the process, shared with whoever had it before. A static object: handlers outlive everything.
class ChainedSignal {
public:
    using Handler = void (*)(int signal, siginfo_t* info, void* context) noexcept;

    constexpr explicit ChainedSignal(int signal) noexcept : signal_{signal} {}
    ChainedSignal(const ChainedSignal&) = delete;
    ChainedSignal& operator=(const ChainedSignal&) = delete;
    ~ChainedSignal() = default;

    /// Installs `handler` on the alternate stack and keeps what was there. Once, unless it failed. Errors: those of
    /// sigaction.
    Result<void> install(Handler handler);
    /// Puts back what was there, where something that `install` was only a part of failed.
    void uninstall() noexcept;

    /// Gives a signal that is not ours to what was installed before, as the kernel would have: its handler with the
    /// same arguments and its mask, or the default action, or none. Async-signal-safe; may not return.
    void pass_on(siginfo_t* info, void* context) noexcept;

private:
    void default_action(const siginfo_t* info) const noexcept;

    int signal_;
    struct sigaction before_{};  // written before our handler can run
    // What SA_RESETHAND asks for.
    std::atomic<bool> reset_{false};
};

}  // namespace harena
