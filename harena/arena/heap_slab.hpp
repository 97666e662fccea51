// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <list>

#include "harena/base/assert.hpp"
#include "harena/base/page_math.hpp"
#include "harena/base/types.hpp"

namespace harena {

/// Adjoining pages of an arena, cut into slots of one size, and which of the slots are taken.
///
/// It is kept in the host's own memory and never looks at the pages: what others write there changes nothing here.
/// Not thread-safe.
class HeapSlab {
public:
    using List = std::list<HeapSlab>;
    static constexpr std::size_t k_max_slots = 1024;

    /// At most `k_max_slots` slots of `slot_bytes`, more than 0. `size_class` is the owner's.
    HeapSlab(PageRange pages, std::size_t slot_bytes, std::size_t size_class) noexcept
        : pages_{pages},
          slot_bytes_{slot_bytes},
          slots_{std::min<std::size_t>(k_max_slots, harena::bytes_of(pages.count()) / slot_bytes)},
          size_class_{size_class} {
        taken_.fill(~std::uint64_t{0});
        for (std::size_t slot = 0; slot < slots_; ++slot) taken_[slot / 64] &= ~mask(slot);
    }

    /// Where its pages are, if not where it was made.
    void place_at(PageIndex begin) noexcept { pages_ = PageRange::of(begin, pages_.count()); }

    [[nodiscard]] PageRange pages() const noexcept { return pages_; }
    [[nodiscard]] std::size_t slot_bytes() const noexcept { return slot_bytes_; }
    [[nodiscard]] std::size_t size_class() const noexcept { return size_class_; }
    [[nodiscard]] bool full() const noexcept { return used_ == slots_; }
    [[nodiscard]] bool empty() const noexcept { return used_ == 0; }

    /// Takes the lowest free slot of one that is not full: how many bytes into the arena it begins.
    [[nodiscard]] std::uint64_t take() noexcept {
        precondition(!full(), "a full slab has no slot to take");
        std::size_t word = 0;
        while (~taken_[word] == 0) ++word;
        const std::size_t slot = word * 64 + static_cast<std::size_t>(std::countr_one(taken_[word]));
        taken_[word] |= mask(slot);
        ++used_;
        return byte_offset(pages_.begin) + slot * slot_bytes_;
    }

    /// Frees the slot that begins `offset` bytes into the arena, in one of these pages; false, and nothing changed, if
    /// none begins there or it is free already.
    [[nodiscard]] bool give(std::uint64_t offset) noexcept {
        const std::uint64_t inside = offset - byte_offset(pages_.begin);
        const std::uint64_t slot = inside / slot_bytes_;
        if (inside % slot_bytes_ != 0 || slot >= slots_ || (taken_[slot / 64] & mask(slot)) == 0) return false;
        taken_[slot / 64] &= ~mask(slot);
        --used_;
        return true;
    }

    List::iterator self;  // where the owner has it

private:
    [[nodiscard]] static constexpr std::uint64_t mask(std::size_t slot) noexcept {
        return std::uint64_t{1} << (slot % 64);
    }

    PageRange pages_;
    std::size_t slot_bytes_;
    std::size_t slots_;
    std::size_t used_ = 0;
    std::size_t size_class_;
    // Invariant: bit i is set iff slot i is taken or there is no slot i.
    std::array<std::uint64_t, k_max_slots / 64> taken_;
};

}  // namespace harena
