// SPDX-License-Identifier: Apache-2.0
#include "harena/page/owner_lock.hpp"

#include <thread>

namespace harena {

void OwnerLock::wait_for_owner() const noexcept {
    // The owner is in a few hundred instructions, and may have lost its processor.
    while (busy_.load(std::memory_order_acquire)) std::this_thread::yield();
}

}  // namespace harena
