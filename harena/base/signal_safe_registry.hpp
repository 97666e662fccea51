// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <mutex>
#include <new>
#include <optional>
#include <type_traits>
#include <utility>

#include "harena/base/result.hpp"
#include "harena/base/seq_locked.hpp"

namespace harena {

/// A set of small plain records that signal handlers can search while other threads add and remove.
///
/// Records live in slots of chunks that are freed only with the whole; a removed record's slot is used again.
/// A slot is under a sequence lock (`SeqLocked`) and has a mark whether it is used: set after the record was written,
/// and cleared before another is. So a reader that finds the mark copies a whole record, the one it was for or, if the
/// slot was used again meanwhile, one that is being added. A reader waits for nobody: a slot that changes under it
/// holds a record that is being added or removed, and no caller may depend on such a one.
///
/// `add` and `remove` are thread-safe and take a lock (a leaf of the lock order, docs/locking.md); `find_if` is
/// lock-free and async-signal-safe.
template <typename Record>
    requires std::is_trivially_copyable_v<Record> && (sizeof(Record) % 8 == 0)
class SignalSafeRegistry {
    struct Slot {
        std::atomic<bool> occupied{false};
        SeqLocked<Record> record;
    };
    static constexpr std::size_t k_slots_per_chunk = 64;
    struct Chunk {
        std::array<Slot, k_slots_per_chunk> slots{};
        std::atomic<Chunk*> next{nullptr};
    };

public:
    /// Names a record that was added. Valid until it is removed.
    using Handle = void*;

    constexpr SignalSafeRegistry() noexcept = default;
    SignalSafeRegistry(const SignalSafeRegistry&) = delete;
    SignalSafeRegistry& operator=(const SignalSafeRegistry&) = delete;
    /// No handler may search any more: a registry of the process is `Immortal`.
    ~SignalSafeRegistry() {
        for (Chunk* chunk = first_.load(); chunk != nullptr;) delete std::exchange(chunk, chunk->next.load());
    }

    /// Errors: ENOMEM.
    [[nodiscard]] Result<Handle> add(const Record& record) {
        const std::lock_guard lock{mutex_};
        std::atomic<Chunk*>* link = &first_;
        for (Chunk* chunk = link->load(); chunk != nullptr; link = &chunk->next, chunk = link->load())
            for (Slot& slot : chunk->slots)
                if (!slot.occupied.load(std::memory_order_relaxed)) return fill(slot, record);
        auto* const chunk = new (std::nothrow) Chunk;
        if (chunk == nullptr) return fail(ENOMEM, "no memory for a registry of {} more records", k_slots_per_chunk);
        fill(chunk->slots[0], record);
        link->store(chunk, std::memory_order_release);
        return static_cast<Handle>(&chunk->slots[0]);
    }

    /// Removes a record that `add` returned the handle of.
    void remove(Handle handle) noexcept {
        const std::lock_guard lock{mutex_};
        static_cast<Slot*>(handle)->occupied.store(false, std::memory_order_release);
    }

    /// A copy of the first record for which `matches(record)` is true.
    template <typename Matches>
    [[nodiscard]] std::optional<Record> find_if(Matches&& matches) const noexcept {
        for (const Chunk* chunk = first_.load(std::memory_order_acquire); chunk != nullptr;
             chunk = chunk->next.load(std::memory_order_acquire)) {
            for (const Slot& slot : chunk->slots) {
                const std::optional<Record> record = read(slot);
                if (record && matches(*record)) return record;
            }
        }
        return std::nullopt;
    }

    /// Calls `visit(record)` for each record.
    template <typename Visit>
    void for_each(Visit&& visit) const noexcept {
        (void)find_if([&](const Record& record) {
            visit(record);
            return false;
        });
    }

    /// Held across fork, so that the child finds no half-written slot.
    void lock() noexcept { mutex_.lock(); }
    void unlock() noexcept { mutex_.unlock(); }

private:
    static Handle fill(Slot& slot, const Record& record) noexcept {
        slot.record.store(record);
        slot.occupied.store(true, std::memory_order_release);
        return &slot;
    }

    static std::optional<Record> read(const Slot& slot) noexcept {
        if (!slot.occupied.load(std::memory_order_acquire)) return std::nullopt;
        return slot.record.try_load();
    }

    std::mutex mutex_;
    std::atomic<Chunk*> first_{nullptr};
};

}  // namespace harena
