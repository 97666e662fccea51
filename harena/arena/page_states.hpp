// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <cstdint>

#include "harena/base/types.hpp"

namespace harena {

/// What a page of an arena is. The order of changes is drawn in docs/arena.md.
enum class PageState : std::uint8_t {
    absent = 0,  ///< free, no memory behind it; what a new arena's pages are
    populating,  ///< one thread is about to put a zeroed page behind it
    used,        ///< allocated, by a program or by the host's touch
    freeing,     ///< one thread is about to take the memory away
    recycled,    ///< free, with memory still behind it (reserved for the recycle cache)
    reserved,    ///< kept out of allocation; may have memory if the host touched it
};

/// The state of every page, one atomic byte each, in memory that belongs to the arena's file.
///
/// Invariant: between a successful change to `populating` or `freeing` and the change that ends it, only the thread
/// that made it changes that byte. Async-signal-safe and thread-safe.
class PageStates {
public:
    PageStates() noexcept = default;
    /// `bytes` points to `count` bytes that outlive this object, zero at first.
    PageStates(std::atomic<std::uint8_t>* bytes, PageCount count) noexcept : bytes_{bytes}, count_{count} {}

    [[nodiscard]] PageCount count() const noexcept { return count_; }

    [[nodiscard]] PageState load(PageIndex page) const noexcept {
        return static_cast<PageState>(bytes_[page.value()].load(std::memory_order_acquire));
    }
    /// Whether the page was in `from` and is now in `to`.
    bool try_change(PageIndex page, PageState from, PageState to) noexcept {
        auto expected = static_cast<std::uint8_t>(from);
        return bytes_[page.value()].compare_exchange_strong(expected, static_cast<std::uint8_t>(to),
                                                            std::memory_order_acq_rel);
    }
    /// Ends a change that this thread began.
    void store(PageIndex page, PageState state) noexcept {
        bytes_[page.value()].store(static_cast<std::uint8_t>(state), std::memory_order_release);
    }
    void store(PageRange range, PageState state) noexcept {
        for (PageIndex page = range.begin; page < range.end; page = page + PageCount{1}) store(page, state);
    }

private:
    static_assert(std::atomic<std::uint8_t>::is_always_lock_free);
    std::atomic<std::uint8_t>* bytes_ = nullptr;
    PageCount count_;
};

}  // namespace harena
