// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>

namespace harena {

/// A lock for what one thread uses all the time and others nearly never. The owner takes it with plain stores and
/// loads; another thread makes it visible to all processors first, by a system call.
///
/// Why it excludes: the owner writes `busy_`, then reads `revoked_`; the other writes `revoked_`, then reads `busy_`.
/// One of the two must see what the other wrote, if neither processor moves its read before its write. On the owner's
/// side nothing prevents that but the other side's barrier: it makes every running thread pass a full barrier between
/// the other's write and read. A thread that passes it after its write of `busy_` has made that visible, and the other
/// waits; one that passes it before reads `revoked_` after it, and sees it. Where the system call cannot be had, each
/// side has a fence of its own instead, if that is known before the first lock is made (`prepare`); a sandbox that
/// forbids the call later only keeps other threads from taking locks.
class OwnerLock {
public:
    /// By the owner only. False if another thread has the lock, or wants it.
    [[nodiscard]] bool try_lock() noexcept {
        busy_.store(true, std::memory_order_relaxed);
        if (light_.load(std::memory_order_relaxed)) [[likely]]
            std::atomic_signal_fence(std::memory_order_seq_cst);
        else
            std::atomic_thread_fence(std::memory_order_seq_cst);
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
    [[nodiscard]] static bool barrier() noexcept;
    /// Finds out whether the system call can be had. Before the first lock is made; again has no effect.
    static void prepare() noexcept;

private:
    // Whether owners need no fence, because others use the system call.
    inline static constinit std::atomic<bool> light_{false};

    std::atomic<bool> busy_{false};
    std::atomic<bool> revoked_{false};
};

}  // namespace harena
