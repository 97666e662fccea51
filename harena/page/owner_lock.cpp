// SPDX-License-Identifier: Apache-2.0
#include "harena/page/owner_lock.hpp"

#include <thread>

#include "harena/base/os/memory.hpp"

namespace harena {

void OwnerLock::prepare() noexcept {
    // Tried, not only registered: a sandbox may forbid the one or the other.
    [[maybe_unused]] static const bool once = [] {
        light_.store(os::register_barrier() && os::barrier_on_all_threads(), std::memory_order_relaxed);
        return true;
    }();
}

bool OwnerLock::barrier() noexcept {
    if (light_.load(std::memory_order_relaxed)) return os::barrier_on_all_threads().has_value();
    std::atomic_thread_fence(std::memory_order_seq_cst);
    return true;
}

void OwnerLock::wait_for_owner() const noexcept {
    // The owner is in a few hundred instructions, and may have lost its processor.
    while (busy_.load(std::memory_order_acquire)) std::this_thread::yield();
}

}  // namespace harena
