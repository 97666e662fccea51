// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>

namespace harena {

/// Two fences between a store and a load, one for those who pass it all the time and nearly free, one for those who
/// pass it seldom and cost a system call: of a thread that stores A, passes `light`, loads B, and one that stores B,
/// passes `heavy`, loads A, one sees what the other stored.
///
/// Why: `heavy` makes every running thread pass a full barrier. One that passes it after its store of A has made that
/// visible; one that passes it before loads B after it. Where the system call cannot be had, each side has a fence of
/// its own instead, if that is known before the first use (`prepare`). Thread-safe.
class AsymmetricFence {
public:
    /// Finds out whether the system call can be had. Before the first use; again has no effect.
    static void prepare() noexcept;

    static void light() noexcept {
        if (light_.load(std::memory_order_relaxed)) [[likely]]
            std::atomic_signal_fence(std::memory_order_seq_cst);
        else
            std::atomic_thread_fence(std::memory_order_seq_cst);
    }
    /// False if a sandbox forbids the system call after it was allowed before: then there was no fence.
    [[nodiscard]] static bool heavy() noexcept;

private:
    // Whether `light` needs no fence, because `heavy` is the system call.
    inline static constinit std::atomic<bool> light_{false};
};

}  // namespace harena
