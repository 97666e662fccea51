// SPDX-License-Identifier: Apache-2.0
#include "harena/exec/text_readers.hpp"

#include <algorithm>
#include <limits>
#include <new>

namespace harena {

constinit thread_local TextReaders::Used TextReaders::last_used_{};

Result<void> TextReaders::prepare() {
    AsymmetricFence::prepare();
    return ThreadOwned::prepare();
}

TextReaders::Slot* TextReaders::find_mine() noexcept try {
    if (fork_guard_.owner_dead()) return nullptr;
    auto* slot = static_cast<Slot*>(part_of_this_thread());
    if (slot == nullptr) {
        slot = take_slot();
        try {
            set_part_of_this_thread(slot, [] {});
        } catch (...) {
            retire(slot);
            throw;
        }
    }
    last_used_ = {.id = id(), .slot = slot};
    return slot;
} catch (const std::bad_alloc&) {
    return nullptr;
}

TextReaders::Slot* TextReaders::take_slot() {
    const std::lock_guard lock{mutex_};
    auto found = std::ranges::find(slots_, false, [](const auto& slot) { return slot->owned; });
    if (found == slots_.end()) found = slots_.insert(found, std::make_unique<Slot>());
    (*found)->owned = true;
    return found->get();
}

void TextReaders::retire(void* part) noexcept {
    last_used_ = {};
    auto& slot = *static_cast<Slot*>(part);
    const std::lock_guard lock{mutex_};
    slot.depth = 0;
    slot.epoch.store(0, std::memory_order_release);
    slot.owned = false;
}

TextReaders::Epoch TextReaders::oldest() const noexcept {
    // Of two threads that leave at once, one sees that the other has left.
    std::atomic_thread_fence(std::memory_order_seq_cst);
    Epoch oldest = std::numeric_limits<Epoch>::max();
    const std::lock_guard lock{mutex_};
    for (const auto& slot : slots_)
        if (const Epoch epoch = slot->epoch.load(std::memory_order_acquire); epoch != 0)
            oldest = std::min(oldest, epoch);
    return oldest;
}

std::uint64_t TextReaders::inside() const noexcept {
    const std::lock_guard lock{mutex_};
    return static_cast<std::uint64_t>(std::ranges::count_if(slots_, [](const auto& slot) {
        return slot->epoch.load(std::memory_order_relaxed) != 0;
    }));
}

}  // namespace harena
