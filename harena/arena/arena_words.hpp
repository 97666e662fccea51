// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <cstdint>

#include "harena/base/types.hpp"

namespace harena {

/// What a page of an arena is. The order of changes is drawn in docs/arena.md.
enum class PageState : std::uint8_t {
    absent = 0,  ///< free, no memory behind it; what a new arena's pages are
    populating,  ///< its owner is about to put a zeroed page behind it
    used,        ///< allocated, by a program or by the host's touch
    freeing,     ///< its owner is about to take the memory away
    recycled,    ///< free, with memory still behind it
    reserved,    ///< kept out of allocation; may have memory if the host touched it
    clearing,    ///< its owner is about to clear the memory that it has, to use it again
    touched,     ///< as `populating`, and the host has touched it meanwhile: it is not to become free again
};

/// Who works on a page or has it: an attach slot of the arena (docs/arena.md), and which of the processes that have had
/// that slot, one after the other. Slot 0 is nobody.
struct PageOwner {
    std::uint8_t slot = 0;
    std::uint16_t generation = 0;

    friend constexpr bool operator==(PageOwner, PageOwner) noexcept = default;
};

/// State and owner of a page, in the one word that is changed by compare-and-swap: who wins the state is the owner, at
/// the same instant.
class ArenaWord {
public:
    constexpr ArenaWord() noexcept = default;
    constexpr ArenaWord(PageState state, PageOwner owner) noexcept
        : bits_{static_cast<std::uint32_t>(state) | std::uint32_t{owner.slot} << 8 |
                std::uint32_t{owner.generation} << 16} {}
    [[nodiscard]] static constexpr ArenaWord from_bits(std::uint32_t bits) noexcept {
        ArenaWord word;
        word.bits_ = bits;
        return word;
    }

    /// Words are untrusted: what is no state counts as `used`, so that it can be freed.
    [[nodiscard]] constexpr PageState state() const noexcept {
        const std::uint32_t state = bits_ & 0xff;
        return state <= static_cast<std::uint32_t>(PageState::touched) ? static_cast<PageState>(state)
                                                                       : PageState::used;
    }
    [[nodiscard]] constexpr PageOwner owner() const noexcept {
        return {.slot = static_cast<std::uint8_t>(bits_ >> 8), .generation = static_cast<std::uint16_t>(bits_ >> 16)};
    }
    [[nodiscard]] constexpr std::uint32_t bits() const noexcept { return bits_; }

    [[nodiscard]] constexpr bool moving() const noexcept {
        switch (state()) {
            case PageState::populating:
            case PageState::freeing:
            case PageState::clearing:
            case PageState::touched:
                return true;
            case PageState::absent:
            case PageState::used:
            case PageState::recycled:
            case PageState::reserved:
                return false;
        }
        return false;
    }
    [[nodiscard]] constexpr bool free() const noexcept {
        return state() == PageState::absent || state() == PageState::recycled;
    }

    friend constexpr bool operator==(ArenaWord, ArenaWord) noexcept = default;

private:
    std::uint32_t bits_ = 0;
};

/// The word of every page, in memory that belongs to the arena's file and that other processes may write.
///
/// Invariant, as long as all keep the protocol: between a successful change to a moving state and the change
/// that ends it, only the owner in the word changes it, or, once that is dead, whoever has put himself in its place.
/// Async-signal-safe and thread-safe.
class ArenaWords {
public:
    ArenaWords() noexcept = default;
    /// `words` points to `count` words that outlive this object, zero at first.
    ArenaWords(std::atomic<std::uint32_t>* words, PageCount count) noexcept : words_{words}, count_{count} {}

    [[nodiscard]] PageCount count() const noexcept { return count_; }

    [[nodiscard]] ArenaWord load(PageIndex page) const noexcept {
        return ArenaWord::from_bits(words_[page.value()].load(std::memory_order_acquire));
    }
    /// Whether the page had exactly the word `from`, and has `to` now; else `from` is what it has.
    bool try_change(PageIndex page, ArenaWord& from, ArenaWord to) noexcept {
        std::uint32_t expected = from.bits();
        if (words_[page.value()].compare_exchange_strong(expected, to.bits(), std::memory_order_acq_rel,
                                                         std::memory_order_acquire))
            return true;
        from = ArenaWord::from_bits(expected);
        return false;
    }
    /// Ends a change that this thread began.
    void store(PageIndex page, ArenaWord word) noexcept {
        words_[page.value()].store(word.bits(), std::memory_order_release);
    }
    void store(PageRange range, ArenaWord word) noexcept {
        for (PageIndex page = range.begin; page < range.end; page = page + PageCount{1}) store(page, word);
    }

private:
    static_assert(std::atomic<std::uint32_t>::is_always_lock_free);
    std::atomic<std::uint32_t>* words_ = nullptr;
    PageCount count_;
};

}  // namespace harena
