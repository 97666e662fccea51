// SPDX-License-Identifier: Apache-2.0
#include "harena/arena/chained_signals.hpp"

#include <ucontext.h>

#include <array>
#include <atomic>

#include "harena/base/os/signal.hpp"

namespace harena::chained_signals {

namespace {

// What was installed before us. Written once, before our handler can run; `reset` is what SA_RESETHAND asks for.
struct Previous {
    struct sigaction action;
    std::atomic<bool> reset;
};
constinit std::array<Previous, 2> previous{};

Previous& previous_of(int signal) noexcept { return previous[signal == SIGBUS ? 0 : 1]; }

// Lets the kernel do what it does without a handler: the signal is sent again and arrives when ours returns. A fault
// too: the instruction, tried again, might succeed (a touch that was refused for lack of memory), with the handler
// gone.
void default_action(int signal, const siginfo_t* info) noexcept {
    struct sigaction action{};
    action.sa_handler = SIG_DFL;
    (void)os::sigaction(signal, &action);
    (void)os::queue_signal_to_self(signal, *info);
}

}  // namespace

Result<void> install(Handler handler) {
    for (const int signal : {SIGBUS, SIGSEGV}) {
        const auto before = os::sigaction(signal, nullptr);
        if (!before) return os::fail_with(before.error(), "cannot ask for the handler of SIGBUS and SIGSEGV");
        previous_of(signal).action = *before;
    }
    for (const int signal : {SIGBUS, SIGSEGV}) {
        const struct sigaction& before = previous_of(signal).action;
        struct sigaction action{};
        action.sa_sigaction = handler;
        action.sa_flags = SA_SIGINFO | SA_ONSTACK;
        // A signal that somebody sends interrupts system calls as it did before; an ignored one interrupted none.
        const bool ignored = (before.sa_flags & SA_SIGINFO) == 0 && before.sa_handler == SIG_IGN;
        if (ignored || (before.sa_flags & SA_RESTART) != 0) action.sa_flags |= SA_RESTART;
        sigemptyset(&action.sa_mask);
        if (const auto installed = os::sigaction(signal, &action); !installed) {
            // Not half: a later attempt would take our own handler for the one before.
            if (signal == SIGSEGV) (void)os::sigaction(SIGBUS, &previous_of(SIGBUS).action);
            return os::fail_with(installed.error(), "cannot install the handler of SIGBUS and SIGSEGV");
        }
    }
    return {};
}

void pass_on(int signal, siginfo_t* info, void* context) noexcept {
    Previous& before = previous_of(signal);
    const struct sigaction& action = before.action;
    const bool has_info = (action.sa_flags & SA_SIGINFO) != 0;
    if (!has_info && action.sa_handler == SIG_DFL) return default_action(signal, info);
    if (!has_info && action.sa_handler == SIG_IGN) {
        // The kernel ignores a sent signal, but never a fault.
        if (info->si_code > 0) default_action(signal, info);
        return;
    }
    if ((static_cast<unsigned>(action.sa_flags) & SA_RESETHAND) != 0 &&
        before.reset.exchange(true, std::memory_order_relaxed))
        return default_action(signal, info);  // it had its one signal

    sigset_t mask = action.sa_mask;
    if ((action.sa_flags & SA_NODEFER) == 0) sigaddset(&mask, signal);
    const auto ours = os::thread_sigmask(SIG_BLOCK, &mask);
    if ((action.sa_flags & SA_NODEFER) != 0 && sigismember(&mask, signal) == 0) {
        sigset_t only;
        sigemptyset(&only);
        sigaddset(&only, signal);
        (void)os::thread_sigmask(SIG_UNBLOCK, &only);
    }
    if (has_info) {
        action.sa_sigaction(signal, info, context);
    } else {
        action.sa_handler(signal);
    }
    if (ours) (void)os::thread_sigmask(SIG_SETMASK, &*ours);
}

void turn_into_segv(const siginfo_t* info, void* context) noexcept {
    siginfo_t segv{};
    segv.si_signo = SIGSEGV;
    segv.si_code = SEGV_MAPERR;
    segv.si_addr = info->si_addr;
    // The kernel does not let a thread block or ignore its own fault either: then the default action is taken.
    sigset_t& mask = static_cast<ucontext_t*>(context)->uc_sigmask;
    const auto current = os::sigaction(SIGSEGV, nullptr);
    const bool ignored = current && (current->sa_flags & SA_SIGINFO) == 0 && current->sa_handler == SIG_IGN;
    if (sigismember(&mask, SIGSEGV) == 1 || ignored) {
        sigdelset(&mask, SIGSEGV);
        struct sigaction action{};
        action.sa_handler = SIG_DFL;
        (void)os::sigaction(SIGSEGV, &action);
    }
    (void)os::queue_signal_to_self(SIGSEGV, segv);
}

}  // namespace harena::chained_signals
