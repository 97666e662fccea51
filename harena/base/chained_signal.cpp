// SPDX-License-Identifier: Apache-2.0
#include "harena/base/chained_signal.hpp"

#include <string_view>

#include "harena/base/os/signal.hpp"

namespace harena {

namespace {

std::string_view name_of(int signal) noexcept {
    switch (signal) {
        case SIGBUS:
            return "SIGBUS";
        case SIGSEGV:
            return "SIGSEGV";
        case SIGTRAP:
            return "SIGTRAP";
        default:
            return "a signal";
    }
}

}  // namespace

Result<void> ChainedSignal::install(Handler handler) {
    const auto before = os::sigaction(signal_, nullptr);
    if (!before)
        return os::fail_with(before.error(), fmt::format("cannot ask for the handler of {}", name_of(signal_)));
    before_ = *before;
    struct sigaction action{};
    action.sa_sigaction = handler;
    action.sa_flags = SA_SIGINFO | SA_ONSTACK;
    // A signal that somebody sends interrupts system calls as it did before; an ignored one interrupted none.
    const bool ignored = (before_.sa_flags & SA_SIGINFO) == 0 && before_.sa_handler == SIG_IGN;
    if (ignored || (before_.sa_flags & SA_RESTART) != 0) action.sa_flags |= SA_RESTART;
    sigemptyset(&action.sa_mask);
    if (const auto installed = os::sigaction(signal_, &action); !installed)
        return os::fail_with(installed.error(), fmt::format("cannot install the handler of {}", name_of(signal_)));
    return {};
}

void ChainedSignal::uninstall() noexcept { (void)os::sigaction(signal_, &before_); }

// Lets the kernel do what it does without a handler: the signal is sent again and arrives when ours returns. A fault
// too: the instruction, tried again, might succeed (a touch that was refused for lack of memory), with the handler
// gone.
void ChainedSignal::default_action(const siginfo_t* info) const noexcept {
    struct sigaction action{};
    action.sa_handler = SIG_DFL;
    (void)os::sigaction(signal_, &action);
    (void)os::queue_signal_to_self(signal_, *info);
}

void ChainedSignal::pass_on(siginfo_t* info, void* context) noexcept {
    const struct sigaction& action = before_;
    const bool has_info = (action.sa_flags & SA_SIGINFO) != 0;
    if (!has_info && action.sa_handler == SIG_DFL) return default_action(info);
    if (!has_info && action.sa_handler == SIG_IGN) {
        // The kernel ignores a sent signal, but never a fault.
        if (info->si_code > 0) default_action(info);
        return;
    }
    if ((static_cast<unsigned>(action.sa_flags) & SA_RESETHAND) != 0 &&
        reset_.exchange(true, std::memory_order_relaxed))
        return default_action(info);  // it had its one signal

    sigset_t mask = action.sa_mask;
    if ((action.sa_flags & SA_NODEFER) == 0) sigaddset(&mask, signal_);
    const auto ours = os::thread_sigmask(SIG_BLOCK, &mask);
    if ((action.sa_flags & SA_NODEFER) != 0 && sigismember(&mask, signal_) == 0) {
        sigset_t only;
        sigemptyset(&only);
        sigaddset(&only, signal_);
        (void)os::thread_sigmask(SIG_UNBLOCK, &only);
    }
    if (has_info) {
        action.sa_sigaction(signal_, info, context);
    } else {
        action.sa_handler(signal_);
    }
    if (ours) (void)os::thread_sigmask(SIG_SETMASK, &*ours);
}

}  // namespace harena
