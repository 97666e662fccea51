// SPDX-License-Identifier: Apache-2.0
#include "harena/arena/chained_signals.hpp"

#include <ucontext.h>

#include "harena/base/chained_signal.hpp"
#include "harena/base/os/signal.hpp"

namespace harena::chained_signals {

namespace {

constinit ChainedSignal bus{SIGBUS};
constinit ChainedSignal segv{SIGSEGV};

}  // namespace

Result<void> install(Handler handler) {
    HARENA_CHECK_OK(bus.install(handler));
    const auto installed = segv.install(handler);
    // Not half: a later attempt would take our own handler for the one before.
    if (!installed) bus.uninstall();
    return installed;
}

void pass_on(int signal, siginfo_t* info, void* context) noexcept {
    (signal == SIGBUS ? bus : segv).pass_on(info, context);
}

void turn_into_segv(const siginfo_t* info, void* context) noexcept {
    siginfo_t fault{};
    fault.si_signo = SIGSEGV;
    fault.si_code = SEGV_MAPERR;
    fault.si_addr = info->si_addr;
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
    (void)os::queue_signal_to_self(SIGSEGV, fault);
}

}  // namespace harena::chained_signals
