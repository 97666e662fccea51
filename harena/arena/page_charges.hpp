// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

#include "harena/arena/arena_words.hpp"
#include "harena/base/result.hpp"
#include "harena/base/zeroed_array.hpp"
#include "harena/page/page_account.hpp"

namespace harena {

/// Which account of this process pays for each page of an arena. Thread-safe.
///
/// Invariant: a page's entry is changed only by the thread that has the page in a moving state (but for `assign_late`
/// and `settle`, which look again), so that each charge is taken back once. A page that another process freed keeps its
/// entry until it is next allocated here, or looked for
/// (`settle`): an account may be charged for too much for a while, never for too little.
class PageCharges {
public:
    /// Names an account; 0 is none.
    using Id = std::uint16_t;

    /// Throws std::bad_alloc.
    explicit PageCharges(PageCount pages) : payers_{pages.value()} {}

    /// The id of `account`, which then lives as long as this object; of null, 0. Errors: ENOMEM, EUSERS (65,535 are
    /// known already).
    [[nodiscard]] Result<Id> id_of(const std::shared_ptr<PageAccount>& account);

    /// False if a limit is in the way. Async-signal-safe.
    [[nodiscard]] bool charge(Id payer, PageCount count) noexcept;
    /// Takes back what was charged and not assigned. Async-signal-safe.
    void uncharge(Id payer, PageCount count) noexcept;

    /// Says that `payer` was charged for these pages, which this thread has in a moving state. Async-signal-safe.
    void assign(PageRange pages, Id payer) noexcept;
    /// Takes back what was charged for these pages, likewise. Async-signal-safe.
    void release(PageRange pages) noexcept { assign(pages, 0); }

    /// The same for a page that this thread has made used without moving it, and that may be free again by now.
    /// Async-signal-safe.
    void assign_late(PageIndex page, Id payer, const ArenaWords& words) noexcept;

    /// What pays for a page; 0 for nobody.
    [[nodiscard]] Id payer_of(PageIndex page) const noexcept {
        return payers_[page.value()].load(std::memory_order_relaxed);
    }
    /// The account of an id; null of 0.
    [[nodiscard]] PageAccount* account(Id payer) const noexcept {
        return accounts_[payer].load(std::memory_order_acquire);
    }
    /// Takes back everything. Nobody may be at work on a page.
    void release_all() noexcept { release({PageIndex{}, PageIndex{payers_.size()}}); }

    /// Takes back what is charged for pages that other processes have freed. True if there were any.
    bool settle(ArenaWords& words, PageOwner mine) noexcept;

private:
    static constexpr std::size_t k_ids = 1 << 16;

    std::atomic<bool> any_{false};  // whether there is an account at all; never unset
    ZeroedArray<std::atomic<Id>> payers_;
    ZeroedArray<std::atomic<PageAccount*>> accounts_{k_ids};
    std::mutex mutex_;                                 // protects owned_ and what is added to accounts_; a leaf
    std::vector<std::shared_ptr<PageAccount>> owned_;  // id - 1
};

}  // namespace harena
