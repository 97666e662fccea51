// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>

#include "harena/base/asymmetric_fence.hpp"

namespace harena {

/// A lock for what one thread uses all the time and others nearly never. The owner takes it with plain stores and
/// loads; another thread makes it visible to all processors first, by a system call.
///
/// Why it excludes: the owner writes `busy_`, then reads `revoked_`; the other writes `revoked_`, then reads `busy_`.
/// One of the two sees what the other wrote, by the fences between (`AsymmetricFence`). A sandbox that forbids the
/// system call of the other's only keeps other threads from taking locks.
class OwnerLock {
public:
    /// By the owner only. False if another thread has the lock, or wants it.
    [[nodiscard]] bool try_lock() noexcept {
        busy_.store(true, std::memory_order_relaxed);
        AsymmetricFence::light();
        if (!revoked_.load(std::memory_order_acquire)) [[likely]]
            return true;
        busy_.store(false, std::memory_order_release);
        return false;
    }
    void unlock() noexcept { busy_.store(false, std::memory_order_release); }

    /// By any thread, one at a time, which the caller sees to: from `revoke` to `restore` the owner's `try_lock` fails.
    /// After a `barrier()` that follows the `revoke`, `wait_for_owner` waits for what it is doing at the moment.
    void revoke() noexcept { revoked_.store(true, std::memory_order_relaxed); }
    void wait_for_owner() const noexcept;
    void restore() noexcept { revoked_.store(false, std::memory_order_release); }

    /// Between the `revoke` of any number of locks and their `wait_for_owner`. If false, none of them was taken:
    /// `restore`.
    [[nodiscard]] static bool barrier() noexcept { return AsymmetricFence::heavy(); }
    /// Before the first lock is made; again has no effect.
    static void prepare() noexcept { AsymmetricFence::prepare(); }

private:
    std::atomic<bool> busy_{false};
    std::atomic<bool> revoked_{false};
};

}  // namespace harena
