// SPDX-License-Identifier: Apache-2.0
#include "harena/arena/attach_slots.hpp"

#include <cerrno>

#include "harena/base/os/process.hpp"
#include "harena/base/os/shared_file.hpp"

namespace harena {

Result<PageOwner> AttachSlots::take() {
    for (std::size_t slot = 1; slot < k_slots; ++slot) {
        if (const auto locked = os::lock_byte(fd_, lock_of(slot)); !locked) {
            if (locked.error().code == EAGAIN || locked.error().code == EACCES) continue;
            return os::fail_with(locked.error(), "cannot lock a byte of the arena's file");
        }
        // What the one before left is not ours: another generation.
        auto generation = static_cast<std::uint16_t>(slots_[slot].generation.load() + 1);
        if (generation == 0) generation = 1;  // 0: the slot was never taken
        mine_ = {.slot = static_cast<std::uint8_t>(slot), .generation = generation};
        slots_[slot].generation.store(generation);
        slots_[slot].process.store(static_cast<std::uint32_t>(os::process_id()));
        return mine_;
    }
    return fail(EUSERS, "{} processes have the arena; there is no place for another one", k_slots - 1);
}

void AttachSlots::leave() noexcept {
    if (mine_.slot == 0) return;
    slots_[mine_.slot].process.store(0);
    (void)os::unlock_byte(fd_, lock_of(mine_.slot));
    mine_ = {};
}

bool AttachSlots::alive(PageOwner owner) const noexcept {
    if (owner == mine_) return true;
    if (owner.slot == 0) return false;
    // The kernel does not count a description's own locks.
    if (owner.slot == mine_.slot) return false;
    if (static_cast<std::uint16_t>(slots_[owner.slot].generation.load()) != owner.generation) return false;
    const auto locked = os::byte_is_locked(fd_, lock_of(owner.slot));
    return !locked || *locked;  // who cannot be asked after is left in peace
}

std::uint32_t AttachSlots::count() const noexcept {
    std::uint32_t alive = 0;
    for (std::size_t slot = 1; slot < k_slots; ++slot)
        if (const std::uint32_t generation = slots_[slot].generation.load(); generation != 0)
            alive += this->alive({.slot = static_cast<std::uint8_t>(slot),
                                  .generation = static_cast<std::uint16_t>(generation)})
                         ? 1U
                         : 0U;
    return alive;
}

std::uint32_t AttachSlots::process_of(PageOwner owner) const noexcept {
    return owner.slot != 0 && alive(owner) ? slots_[owner.slot].process.load() : 0;
}

}  // namespace harena
