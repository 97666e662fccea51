// SPDX-License-Identifier: Apache-2.0
#include "harena/base/fork.hpp"

#include <pthread.h>

#include <atomic>
#include <cerrno>

#include "harena/base/os/sys_result.hpp"

namespace harena {

namespace detail {
constinit std::atomic<std::uint64_t> generation{0};
}

namespace {
void count_fork() noexcept { detail::generation.fetch_add(1, std::memory_order_relaxed); }
}  // namespace

Result<void> at_fork(const ForkHandlers& handlers) {
    if (const int error = ::pthread_atfork(handlers.prepare, handlers.parent, handlers.child))
        return os::fail_with({error}, "cannot register handlers for fork");
    return {};
}

Result<void> ForkRules::ensure(const ForkHandlers& handlers) {
    const std::lock_guard lock{mutex_};
    if (registered_) return {};
    HARENA_CHECK_OK(at_fork(handlers));
    registered_ = true;
    return {};
}

ForkGuard::ForkGuard() noexcept : generation_{fork_generation()} {
    [[maybe_unused]] static const bool counting = ::pthread_atfork(nullptr, nullptr, &count_fork) == 0;
}

Result<void> ForkGuard::check(std::string_view what) const {
    if (owner_dead())
        return fail(EOWNERDEAD, "{} belongs to the parent process: a child after fork cannot use it; make a new one",
                    what);
    return {};
}

}  // namespace harena
