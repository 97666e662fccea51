// SPDX-License-Identifier: Apache-2.0
#include "harena/base/os/signal.hpp"

#include <pthread.h>
#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <ctime>

#include "harena/base/os/invoke.hpp"

namespace harena::os {

using detail::invoke;

SysResult<struct sigaction> sigaction(int signal, const struct sigaction* action) noexcept {
    struct sigaction before{};
    if (auto ok = invoke(Call::sigaction, [&] { return ::sigaction(signal, action, &before); }); !ok)
        return std::unexpected{ok.error()};
    return before;
}

SysResult<stack_t> sigaltstack(const stack_t* stack) noexcept {
    stack_t before{};
    if (auto ok = invoke(Call::sigaltstack, [&] { return ::sigaltstack(stack, &before); }); !ok)
        return std::unexpected{ok.error()};
    return before;
}

std::size_t minimal_signal_stack() noexcept {
    const long bytes = ::sysconf(_SC_MINSIGSTKSZ);
    return bytes > 0 ? static_cast<std::size_t>(bytes) : 2048;
}

SysResult<sigset_t> thread_sigmask(int how, const sigset_t* signals) noexcept {
    if (const int error = detail::injected(Call::sigmask)) return sys_fail(error);
    sigset_t before{};
    if (const int error = ::pthread_sigmask(how, signals, &before)) return sys_fail(error);
    return before;
}

SysResult<void> queue_signal_to_self(int signal, siginfo_t info) noexcept {
    if (::syscall(SYS_rt_tgsigqueueinfo, ::getpid(), ::gettid(), signal, &info) < 0) return sys_fail(errno);
    return {};
}

void yield_processor() noexcept { ::sched_yield(); }

void nap(std::uint64_t ns) noexcept {
    const timespec duration{.tv_sec = static_cast<time_t>(ns / 1'000'000'000),
                            .tv_nsec = static_cast<long>(ns % 1'000'000'000)};
    ::nanosleep(&duration, nullptr);
}

}  // namespace harena::os
