// SPDX-License-Identifier: Apache-2.0
#include "harena/base/asymmetric_fence.hpp"

#include "harena/base/os/memory.hpp"

namespace harena {

void AsymmetricFence::prepare() noexcept {
    // Tried, not only registered: a sandbox may forbid the one or the other.
    [[maybe_unused]] static const bool once = [] {
        light_.store(os::register_barrier() && os::barrier_on_all_threads(), std::memory_order_relaxed);
        return true;
    }();
}

bool AsymmetricFence::heavy() noexcept {
    if (light_.load(std::memory_order_relaxed)) return os::barrier_on_all_threads().has_value();
    std::atomic_thread_fence(std::memory_order_seq_cst);
    return true;
}

}  // namespace harena
