// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <cstdint>
#include <mutex>
#include <string_view>

#include "harena/base/result.hpp"

namespace harena {

namespace detail {
extern std::atomic<std::uint64_t> generation;  // how many forks this process is away from the first
}

/// What a module does around fork. Each function is a plain one without arguments; null does nothing.
struct ForkHandlers {
    void (*prepare)() noexcept;
    void (*parent)() noexcept;
    void (*child)() noexcept;
};

/// Registers `handlers` for every later fork of this process; there is no way to take them back. Thread-safe.
/// Errors: ENOMEM. `prepare` functions run in the reverse order of registration, the others in that order.
/// Raw `clone` runs none of them.
Result<void> at_fork(const ForkHandlers& handlers);

/// Registers a module's handlers once, and what failed is tried again at the next call. A static object. Thread-safe.
class ForkRules {
public:
    /// Errors: ENOMEM.
    Result<void> ensure(const ForkHandlers& handlers);

private:
    std::mutex mutex_;
    bool registered_ = false;
};

/// Tells an object whether it is used in the process that made it: equal to what it was then iff it is.
/// The first call must succeed before any fork, which `ForkGuard` sees to. Async-signal-safe.
[[nodiscard]] inline std::uint64_t fork_generation() noexcept {
    return detail::generation.load(std::memory_order_relaxed);
}

/// A member of everything that cannot be used in a child after fork. Constructed in the owner.
class ForkGuard {
public:
    ForkGuard() noexcept;

    /// Whether this process is not the one that made the object, but a child of it.
    [[nodiscard]] bool owner_dead() const noexcept { return fork_generation() != generation_; }

    /// EOWNERDEAD, naming `what`, in a child after fork.
    [[nodiscard]] Result<void> check(std::string_view what) const;

private:
    std::uint64_t generation_;
};

}  // namespace harena
