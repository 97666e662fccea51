// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <cstring>
#include <mutex>
#include <new>
#include <optional>
#include <type_traits>
#include <utility>

#include "harena/base/result.hpp"

namespace harena {

/// A set of small plain records that signal handlers can search while other threads add and remove.
///
/// Records live in slots of chunks that are freed only with the whole; a removed record's slot is used again.
/// Each slot is a sequence lock over atomic words: a reader copies the record and takes it only if the slot's version
/// was even and the same before and after, so that it never sees half of two records. A reader waits for nobody: a slot
/// that changes under it holds a record that is being added or removed, and no caller may depend on such a one.
///
/// `add` and `remove` are thread-safe and take a lock (a leaf of the lock order, docs/locking.md); `find_if` is
/// lock-free and async-signal-safe.
template <typename Record>
    requires std::is_trivially_copyable_v<Record> && (sizeof(Record) % 8 == 0)
class SignalSafeRegistry {
    struct Slot {
        std::atomic<std::uint64_t> version{0};  // odd: being written
        std::atomic<bool> occupied{false};
        std::array<std::atomic<std::uint64_t>, sizeof(Record) / 8> words{};
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
        auto& slot = *static_cast<Slot*>(handle);
        write(slot, [&] { slot.occupied.store(false, std::memory_order_release); });
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
    template <typename Change>
    static void write(Slot& slot, Change&& change) noexcept {
        const std::uint64_t version = slot.version.load(std::memory_order_relaxed);
        // Every store of `change` is a release and every load of `read` an acquire: a reader that sees any new word
        // also sees the odd version, and drops what it read.
        slot.version.store(version + 1, std::memory_order_relaxed);
        change();
        slot.version.store(version + 2, std::memory_order_release);
    }

    static Handle fill(Slot& slot, const Record& record) noexcept {
        std::array<std::uint64_t, sizeof(Record) / 8> words;
        std::memcpy(words.data(), &record, sizeof record);
        write(slot, [&] {
            for (std::size_t i = 0; i < words.size(); ++i) slot.words[i].store(words[i], std::memory_order_release);
            slot.occupied.store(true, std::memory_order_release);
        });
        return &slot;
    }

    static std::optional<Record> read(const Slot& slot) noexcept {
        const std::uint64_t before = slot.version.load(std::memory_order_acquire);
        if (before % 2 != 0 || !slot.occupied.load(std::memory_order_acquire)) return std::nullopt;
        std::array<std::uint64_t, sizeof(Record) / 8> words;
        for (std::size_t i = 0; i < words.size(); ++i) words[i] = slot.words[i].load(std::memory_order_acquire);
        if (slot.version.load(std::memory_order_relaxed) != before) return std::nullopt;
        Record record;
        std::memcpy(static_cast<void*>(&record), words.data(), sizeof record);
        return record;
    }

    std::mutex mutex_;
    std::atomic<Chunk*> first_{nullptr};
};

}  // namespace harena
