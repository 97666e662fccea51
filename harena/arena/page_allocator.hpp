// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <expected>
#include <memory>
#include <mutex>
#include <optional>
#include <vector>

#include "harena/arena/page_charges.hpp"
#include "harena/arena/page_hints.hpp"
#include "harena/arena/page_magazine.hpp"
#include "harena/arena/presence.hpp"
#include "harena/base/thread_owned.hpp"

namespace harena {

/// Hands out the free pages of an arena to this process, and keeps some of those that are freed with their memory.
///
/// What it knows is a hint: other processes, and touches of the host, take pages and free them, and the words decide
/// (docs/arena.md). Errors are errno values, since programs have no use for messages: EBUSY (a page is not free),
/// ENOMEM (no such free pages, or no memory), EDQUOT (an account is at its limit), ECANCELED. Thread-safe.
class PageAllocator final : private ThreadOwned {
public:
    template <typename T>
    using Outcome = std::expected<T, int>;

    struct Options {
        /// Freed pages that keep their memory, at most.
        PageCount recycle;
        /// No thread keeps pages of its own: the same calls give the same addresses.
        bool deterministic = false;
        /// Whether a thread that allocates many single pages is given blocks of 2 MiB.
        bool huge_refills = false;
        /// Memory comes and goes in whole blocks of 2 MiB.
        bool whole_blocks = false;
        /// Whether all pages are free and without memory: nobody had the arena before.
        bool fresh = false;
    };

    /// Throws std::bad_alloc. Both must outlive this object.
    PageAllocator(Presence& presence, PageCharges& charges, const Options& options);
    PageAllocator(const PageAllocator&) = delete;
    PageAllocator& operator=(const PageAllocator&) = delete;
    /// No thread may be at work in it.
    ~PageAllocator() override;

    /// Zeroed pages, at `at` or where the smallest sufficient range of free pages begins. Once `cancel` is set, gives
    /// up.
    [[nodiscard]] Outcome<PageIndex> allocate(std::optional<PageIndex> at, PageCount count, PageCharges::Id payer,
                                              const std::atomic<bool>* cancel = nullptr);
    /// Frees what is used or reserved in `range`. An error: some of it stays allocated.
    Outcome<void> release(PageRange range);
    /// Free pages become reserved ones, all or none.
    [[nodiscard]] Outcome<void> reserve(PageRange range);
    /// Makes the free pages of `blocks` (whole ones of 2 MiB) used, and puts each block on one page-table entry; EBUSY
    /// if a page is reserved or on the move, or the kernel says so. All or nothing, but for what is used already.
    [[nodiscard]] Outcome<void> promote(PageRange blocks, PageCharges::Id payer);

    /// Changes the bound of `Options::recycle`; what is above it is given back at once.
    void set_recycle(PageCount count);

private:
    /// What was claimed for an allocation: with `whole_blocks`, more than was wanted.
    struct Claimed {
        PageRange wanted;
        PageRange whole;
    };
    struct Used {
        std::uint64_t id = 0;  // of a `PageAllocator`; 0: none
        PageMagazine* magazine = nullptr;
    };

    [[nodiscard]] PageMagazine* magazine() noexcept {
        if (!magazines_fit_.load(std::memory_order_relaxed)) return nullptr;
        if (last_used_.id == id()) [[likely]]
            return last_used_.magazine;
        return find_magazine();
    }
    [[nodiscard]] PageMagazine* find_magazine() noexcept;
    void retire(void* part) noexcept override;
    void forget() noexcept override { last_used_ = {}; }

    [[nodiscard]] bool charge(PageCharges::Id payer, PageCount count) noexcept;
    [[nodiscard]] Outcome<PageIndex> allocate_one(PageMagazine& magazine, PageCharges::Id payer,
                                                  const std::atomic<bool>* cancel);
    [[nodiscard]] Outcome<PageIndex> allocate_range(std::optional<PageIndex> at, PageCount count, PageCharges::Id payer,
                                                    const std::atomic<bool>* cancel);
    [[nodiscard]] Outcome<Claimed> claim_at(PageRange range);
    [[nodiscard]] Outcome<Claimed> claim_anywhere(PageCount count);
    [[nodiscard]] Claimed widen(PageRange claimed) noexcept;
    void end_claim(const Claimed& claimed);
    void undo_claim(const Claimed& claimed);
    [[nodiscard]] bool wait_for(PageIndex moving) noexcept;

    bool refill(PageMagazine& magazine);
    bool refill_with_kept(PageMagazine& magazine) noexcept;
    [[nodiscard]] PageRange claim_for_refill(const PageMagazine& magazine) noexcept;
    void spill(PageMagazine& magazine, std::size_t count) noexcept;

    [[nodiscard]] bool free_one(PageIndex page) noexcept;
    Outcome<void> release_run(PageRange freeing, bool has_memory);
    Outcome<void> give_memory_back(PageRange freeing, PageState before);
    void shrink(PageCount to);
    [[nodiscard]] PageRange take_kept_run() noexcept;
    void release_free_blocks(PageRange around);

    // With the mutex held.
    /// How many more pages may be kept.
    [[nodiscard]] PageCount room() const noexcept;
    [[nodiscard]] std::uint64_t in_magazines() const noexcept;
    void see_if_magazines_fit() noexcept;

    static constinit thread_local Used last_used_;

    Presence& presence_;
    PageCharges& charges_;
    const Options options_;
    const bool prepared_;  // without, threads have no magazines
    std::atomic<std::uint64_t> recycle_;
    // Whether all magazines together, or a first one, may hold half of what may be kept: else they are not used, and
    // what is in them is to be found in the hints. Changed with the mutex held.
    std::atomic<bool> magazines_fit_;

    // Protects all below. Never held while an arena page is touched; at a system call only for what the dead left.
    std::mutex mutex_;
    // Invariant: every free page is in the hints, or in a magazine, or on its way to one of them; or the hints say that
    // they may lack some.
    PageHints hints_;
    std::vector<std::unique_ptr<PageMagazine>> magazines_;
};

}  // namespace harena
