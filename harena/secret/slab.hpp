// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <atomic>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <optional>

#include "harena/base/page_math.hpp"
#include "harena/secret/canary.hpp"
#include "harena/secret/size_classes.hpp"
#include "harena/secret/violation.hpp"
#include "harena/secret/wipe.hpp"

namespace harena {

/// The records of a page that is cut into slots of one class, which lie outside of it.
///
/// A slot is live (somebody's secret), or free: in the slab (its bit in `free_` is set), in a thread's cache, or on
/// its way. `make_live` and `make_free` are for whoever has the slot, on any thread; all else is under the lock of the
/// slab's store. Never destroyed while its heap lives: a stale pointer leads to some slab.
class alignas(128) Slab {
public:
    Slab() noexcept = default;
    Slab(const Slab&) = delete;
    Slab& operator=(const Slab&) = delete;
    ~Slab() = default;

    /// Cuts `page`, which is zero but for the key in its first bytes; all slots are in the slab.
    void begin(std::byte* page, ClassIndex index) noexcept {
        page_ = page;
        index_ = index;
        Canary::make_usable(key());
        const std::uint32_t slots = size_class().slots;
        for (std::uint32_t i = 0; i < slots; ++i) {
            const Canary after = canary(i);
            words_[i].store(word(after, 0), std::memory_order_relaxed);
            after.put(slot(i) + size_class().room());
        }
        free_ = {slots >= 64 ? ~std::uint64_t{0} : (std::uint64_t{1} << slots) - 1,
                 slots > 64 ? (std::uint64_t{1} << (slots - 64)) - 1 : 0};
        free_slots_ = slots;
    }

    [[nodiscard]] std::byte* page() const noexcept { return page_; }
    [[nodiscard]] ClassIndex class_index() const noexcept { return index_; }
    [[nodiscard]] const SizeClass& size_class() const noexcept { return k_size_classes[index_]; }
    [[nodiscard]] std::uint32_t free_slots() const noexcept { return free_slots_; }
    [[nodiscard]] bool all_free() const noexcept { return free_slots_ == size_class().slots; }

    /// Takes the lowest free slot out of the slab, which has one.
    [[nodiscard]] std::byte* take() noexcept {
        const std::size_t half = free_[0] != 0 ? 0 : 1;
        const auto bit = static_cast<std::uint32_t>(std::countr_zero(free_[half]));
        free_[half] &= free_[half] - 1;
        --free_slots_;
        return slot(static_cast<std::uint32_t>(half * 64) + bit);
    }
    /// Puts a free slot back.
    void give(const std::byte* slot) noexcept {
        const std::uint32_t i = *index_of(slot);
        free_[i / 64] |= std::uint64_t{1} << (i % 64);
        ++free_slots_;
    }

    /// A free slot becomes a secret of `bytes` zero bytes.
    void make_live(std::byte* at, std::size_t bytes) noexcept {
        const auto i = index_of(at);
        if (!i) stop_after(Violation::record_overwritten, at);
        const Canary after = canary(*i);
        if (words_[*i].load(std::memory_order_relaxed) != word(after, 0)) stop_after(Violation::record_overwritten, at);
        std::byte* const end = at + size_class().room();
        if (!is_zero(at, size_class().room())) stop_after(Violation::written_after_free, at);
        if (!after.intact(end)) stop_after(Violation::overrun, at);
        after.fill(at + bytes, end);
        words_[*i].store(word(after, bytes), std::memory_order_release);
    }
    /// A secret becomes a free slot of zeros. Aborts if it is none, or something was written round it. Returns its
    /// size.
    std::size_t make_free(std::byte* at) noexcept {
        const auto i = index_of(at);
        if (!i) stop_after(Violation::not_allocated, at);
        const Canary after = canary(*i);
        const std::size_t room = size_class().room();
        // All that does not need the word comes before the atomic step, which is a barrier.
        const bool in_bounds = after.intact(at + room) && (*i == 0 || canary(*i - 1).intact(at - Canary::k_bytes));
        const std::uint32_t freed = word(after, 0);
        // Of two frees, one finds the other's word.
        const std::uint32_t before = words_[*i].exchange(freed, std::memory_order_acq_rel);
        const std::size_t bytes = before & k_size_mask;
        if (!in_bounds || before != word(after, bytes) || bytes == 0 || !after.intact(at + bytes, at + room))
            explain(*i, before);
        if (room <= k_most_wiped_by_words)
            wipe_words(at, room);
        else
            wipe(at, room);
        return bytes;
    }
    /// Of a secret; 0 of what is none.
    [[nodiscard]] std::size_t size_of(const std::byte* at) const noexcept {
        const auto i = index_of(at);
        return i ? words_[*i].load(std::memory_order_acquire) & k_size_mask : 0;
    }

    // Of a list of slabs, or of those that are not used.
    Slab* previous = nullptr;
    Slab* next = nullptr;

private:
    static constexpr std::uint32_t k_size_mask = 0xffff;

    [[nodiscard]] CanaryKey& key() const noexcept { return *reinterpret_cast<CanaryKey*>(page_); }
    [[nodiscard]] Canary canary(std::uint32_t i) const noexcept { return {key(), i}; }
    [[nodiscard]] std::byte* slot(std::uint32_t i) const noexcept {
        return page_ + k_slab_header + std::size_t{i} * size_class().slot_bytes;
    }
    /// Which slot begins at `at`.
    [[nodiscard]] std::optional<std::uint32_t> index_of(const std::byte* at) const noexcept {
        const auto offset = static_cast<std::uint64_t>(at - page_) - k_slab_header;
        if (offset >= k_page_size) return std::nullopt;
        const auto i = static_cast<std::uint32_t>(offset * size_class().inverse >> k_inverse_shift);
        if (i >= size_class().slots || std::uint64_t{i} * size_class().slot_bytes != offset) return std::nullopt;
        return i;
    }
    /// What is recorded of the slot before this canary when it has a secret of so many bytes; 0: it is free.
    [[nodiscard]] static std::uint32_t word(const Canary& after, std::size_t bytes) noexcept {
        return static_cast<std::uint32_t>(bytes) | std::uint32_t{after.check_of(bytes)} << 16;
    }
    [[nodiscard]] static bool is_zero(const std::byte* at, std::size_t bytes) noexcept {
        std::array<std::uint64_t, 2> any{};
        for (std::size_t i = 0; i < bytes; i += sizeof any) {
            std::array<std::uint64_t, 2> part;
            std::memcpy(&part, at + i, sizeof part);
            any[0] |= part[0];
            any[1] |= part[1];
        }
        return (any[0] | any[1]) == 0;
    }
    /// Says what is wrong with slot `i`, whose word was `before` it was freed.
    [[noreturn]] void explain(std::uint32_t i, std::uint32_t before) const noexcept;

    std::byte* page_ = nullptr;
    ClassIndex index_ = 0;
    std::uint32_t free_slots_ = 0;
    // Invariant: bit i is set iff slot i is in the slab; `free_slots_` is how many are.
    std::array<std::uint64_t, 2> free_{};
    // Invariant: word(canary(i), size of the secret) if slot i is live, word(canary(i), 0) if it is free.
    alignas(128) std::array<std::atomic<std::uint32_t>, k_most_slots> words_{};
};

}  // namespace harena
