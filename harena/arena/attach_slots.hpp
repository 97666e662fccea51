// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <atomic>
#include <cstdint>

#include "harena/arena/arena_words.hpp"
#include "harena/base/result.hpp"

namespace harena {

/// A process that has an arena mapped, as the others see it. In shared memory: whoever reads it checks it.
struct AttachSlot {
    /// Of the process that has the slot now, or had it last.
    std::atomic<std::uint32_t> generation;
    /// Its number, to be shown to people; means nothing else.
    std::atomic<std::uint32_t> process;
};

/// 255 places for the processes of one arena. Who has one has the lock of a byte of the arena's file, by an open file
/// description of his own: the kernel gives it back when the process ends, however it ends.
class AttachSlots {
public:
    static constexpr std::size_t k_slots = 256;  // slot 0 is nobody's

    /// `slots` are `k_slots` in the arena's file, which `fd` is a description of that no other process has; the bytes
    /// from `lock_offset` on are the locks. All must outlive this object.
    AttachSlots(int fd, std::uint64_t lock_offset, AttachSlot* slots) noexcept
        : fd_{fd}, lock_offset_{lock_offset}, slots_{slots} {}

    /// Takes a free slot for this process. Errors: EUSERS (all are taken), ENOLCK. Thread-safe against other processes.
    [[nodiscard]] Result<PageOwner> take();
    /// Gives this process's slot back: what it was at work on is for others to finish.
    void leave() noexcept;

    [[nodiscard]] PageOwner mine() const noexcept { return mine_; }

    /// Whether another process has the arena, or had it beside this one. Whoever comes takes the lowest free slot: the
    /// first beside one in slot 1 takes slot 2. Async-signal-safe.
    [[nodiscard]] bool shared() const noexcept { return mine_.slot > 1 || slots_[2].generation.load() != 0; }

    /// Whether `owner` may still be at work: a process that is gone is never taken for alive for longer than its
    /// successor needs to attach. Async-signal-safe.
    [[nodiscard]] bool alive(PageOwner owner) const noexcept;
    /// Its number, if it is alive; 0 if not, or if it does not say.
    [[nodiscard]] std::uint32_t process_of(PageOwner owner) const noexcept;

    /// How many processes have a slot: a question to the kernel for each place that was ever taken.
    [[nodiscard]] std::uint32_t count() const noexcept;

private:
    [[nodiscard]] std::uint64_t lock_of(std::size_t slot) const noexcept { return lock_offset_ + slot; }

    int fd_;
    std::uint64_t lock_offset_;
    AttachSlot* slots_;
    PageOwner mine_;
};

}  // namespace harena
