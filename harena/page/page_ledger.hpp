// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <cstddef>
#include <memory>
#include <source_location>
#include <utility>

#include "harena/base/assert.hpp"
#include "harena/base/result.hpp"
#include "harena/page/free_blocks.hpp"
#include "harena/page/page.hpp"

namespace harena {

/// Where in the program a block was allocated or freed.
using Site = std::source_location;

/// Who has what: turns free blocks into allocated ones and back, and refuses what is not exactly right. A double free,
/// a wrong order, a pointer to no page: always an error, and nothing has changed. Debug builds remember the places of
/// the last allocation and the last free of each page, name both in the message, and abort with it.
///
/// Thread-safe: the step from allocated to not is one compare-and-swap.
class PageLedger {
public:
    /// Errors: ENOMEM (debug builds).
    [[nodiscard]] static Result<PageLedger> create(const PageArray& pages);

    /// `block`, which nobody else has, becomes the caller's, with one reference. `unmapped`: it has no address.
    Page& hand_out(const FreeBlock& block, PageAccount* account, bool unmapped, const Site& where) const noexcept {
        Page& page = (*pages_)[block.first];
        page.account_ = account;
        page.owner_data = 0;
        if constexpr (k_debug_checks) sites_[block.first.value()].allocated = where;
        page.store({.state = BlockState::allocated, .order = block.order, .unmapped = unmapped, .references = 1});
        return page;
    }

    /// Takes a block back if `page` begins an allocated one of `order` that has one reference; with `must_be_unmapped`,
    /// one that is not in the direct map. `was` says what it was.
    [[nodiscard]] bool try_take_back(Page& page, Order order, std::uint64_t& was, const Site& where,
                                     bool must_be_unmapped = false) const noexcept {
        const std::uint64_t expected = PageWord{.state = BlockState::allocated, .order = order, .references = 1}.bits();
        was = page.load_bits();
        do {
            if ((was & ~PageWord::k_unmapped_bit) != expected) return false;
            if (must_be_unmapped && was == expected) return false;
        } while (!page.exchange(was, {.state = BlockState::cached, .order = order}));
        if constexpr (k_debug_checks) sites_[index(page)].freed = where;
        return true;
    }

    /// The error for a page that `try_take_back` refused: EINVAL, or EBUSY (it has more references). Debug builds
    /// abort.
    [[nodiscard]] Error refusal(const Page& page, Order order, const PageWord& word, const Site& where) const;
    /// The error for a pointer that is not to a page of the array: EINVAL. Debug builds abort.
    [[nodiscard]] static Error not_a_page(const Page* page, const Site& where);

private:
    // Written by the block's owner, and read by whoever frees it wrongly.
    struct Sites {
        std::atomic<Site> allocated;
        std::atomic<Site> freed;
    };

    struct Unmap {
        std::size_t bytes;
        void operator()(Sites* sites) const noexcept;
    };

    PageLedger(const PageArray& pages, std::unique_ptr<Sites[], Unmap> sites) noexcept
        : pages_{&pages}, sites_{std::move(sites)} {}
    [[nodiscard]] std::uint32_t index(const Page& page) const noexcept { return pages_->pfn_of(page).value(); }

    const PageArray* pages_;
    std::unique_ptr<Sites[], Unmap> sites_;  // debug builds only
};

}  // namespace harena
