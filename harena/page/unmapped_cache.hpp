// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "harena/base/bitmap.hpp"
#include "harena/base/fork.hpp"
#include "harena/page/alias_holder.hpp"
#include "harena/page/alloc_flags.hpp"
#include "harena/page/page_ledger.hpp"
#include "harena/page/page_store.hpp"
#include "harena/page/shrinker.hpp"
#include "harena/page/thread_cache.hpp"

namespace harena {

struct UnmappedStatistics {
    /// Pages out of the direct map now: free ones in the cache, and those of callers.
    PageCount free;
    PageCount allocated;
    /// Of the free ones, those that are not zero yet.
    PageCount dirty;
    /// Free blocks of each order.
    PerOrder free_blocks{};
    /// Blocks of each order that came in from the pool, and that went back to it, so far.
    PerOrder cached{};
    PerOrder released{};
    /// Blocks that could not leave the direct map, or not return to it; and zeroing that failed.
    std::uint64_t unmap_failures = 0;
    std::uint64_t restore_failures = 0;
    std::uint64_t zero_failures = 0;
};

/// The statistics as a table: a line each for `Order:`, `Free:`, `Cached:`, `Released:`, one column an order, then
/// pages.
[[nodiscard]] std::string to_text(const UnmappedStatistics& statistics);

/// Pages of a pool that are not in its direct map, so that no stray, overrunning or speculative load of the process
/// reaches them: sealed tables, sensitive buffers, another machine's memory. Who makes system calls still can: the
/// pool's file has them.
///
/// They leave the direct map by whole pageblocks, where there are any, and are handed out from here by a buddy
/// allocator of its own; that keeps mappings few and 2 MiB page-table entries whole. Where a pageblock could leave only
/// in part, its other pages follow as they are freed.
///
/// What is handed out is zero: written through the file, after the page has left the direct map, by the largest runs
/// there are. One lock for allocation, refill and shrinking, held during their system calls: pages that a refill
/// brought cannot be taken by others before the thread that called for it has its own. Thread-safe; kernel:
/// unmapped_alloc.
class UnmappedCache final : public Shrinker {
public:
    /// Of one pool. When that has no pages left, those in `caches` are brought back.
    UnmappedCache(PageStore& store, const PageLedger& ledger, ThreadCaches& caches);

    /// A block of unmapped pages. `flags.this_node` is taken as a wish. Errors: ENOMEM: the pool has no pages, an
    /// account is at its limit, or the process has too many mappings for pages to leave the direct map; ENOTSUP: a
    /// hugetlb pool, whose file cannot be written to; EOWNERDEAD.
    [[nodiscard]] Result<Page*> unmapped_pages_alloc(Order order, const AllocFlags& flags = {},
                                                     const Site& where = Site::current());
    /// Gives a block back. Errors as `PagePool::free_pages`, and EINVAL if the block is in the direct map.
    Result<void> unmapped_pages_free(Page* page, const Site& where = Site::current());

    /// Zeroes all free pages now. Errors: that of a write; then the others are still to be zeroed.
    Result<void> flush();

    /// Pages that are free here.
    [[nodiscard]] PageCount count() const override { return statistics().free; }
    /// Returns free blocks to the direct map, zeroed: `wanted` pages at most, rounded up to the last block's end. Whole
    /// pageblocks first, then the largest blocks.
    Result<PageCount> shrink(PageCount wanted) override;

    [[nodiscard]] UnmappedStatistics statistics() const;

    /// Who may have other addresses of pages after they were freed: they let go before such a page is handed out here.
    [[nodiscard]] AliasHolders& alias_holders() noexcept { return alias_holders_; }

private:
    friend class PagePool;

    static constexpr std::uint8_t k_zero_list = 254;
    static constexpr std::uint8_t k_dirty_list = 255;

    /// How the contents of whole pageblocks go: overwritten, or with their memory, which the system gets back.
    enum class Contents : std::uint8_t { zeroed, dropped };
    /// As `shrink`.
    [[nodiscard]] Result<PageCount> release_some(PageCount wanted, Contents contents);

    /// A block that its owner gave back comes in: an unmapped one, or one whose pageblock is going to be. False if it
    /// could not leave the direct map.
    [[nodiscard]] bool adopt(const FreeBlock& block, bool unmapped);

    // All of these with the lock held.
    [[nodiscard]] Result<FreeBlock> take(Order order, bool no_zero);
    /// Zeroes the largest block that is not, and if that is smaller than `order`, all. False if all are zero.
    [[nodiscard]] Result<bool> zero_some(Order order);
    Result<void> zero_dirty(const FreeBlock& block);
    /// Brings a block of at least `order` in, a pageblock if there is one.
    [[nodiscard]] Result<void> refill(Order order, NodeChoice node);
    [[nodiscard]] Result<FreeBlock> take_from_store(Order order, NodeChoice node);
    [[nodiscard]] Result<void> unmap_and_add(const FreeBlock& block);
    /// Brings what is free of a pageblock in, of which a part came in.
    void follow(Pfn pageblock);
    /// Returns a block to the direct map and to the pool; after an error, it is in the cache as before.
    [[nodiscard]] Result<void> release(const FreeBlock& block, Contents contents);
    /// The same for a pageblock that is free here, in however many pieces.
    [[nodiscard]] Result<void> release_pageblock(Pfn first, Contents contents);
    /// A block that was not here comes in.
    void give(const FreeBlock& block) noexcept;
    /// A block that was here goes to a caller.
    [[nodiscard]] FreeBlock counted_out(const FreeBlock& block) noexcept;
    void count_free(const FreeBlock& block, bool added) noexcept;
    void count_unmapped(const FreeBlock& block, bool added) noexcept;
    /// The order of the largest blocks; `k_orders` if there are none.
    [[nodiscard]] static std::size_t largest(const FreeBlocks& blocks) noexcept;
    /// Calls `visit(pageblock, pages)` for each pageblock that `block` has pages in.
    template <typename Visit>
    static void for_each_pageblock(const FreeBlock& block, Visit&& visit) noexcept;

    PageStore& store_;
    const PageLedger& ledger_;
    ThreadCaches& caches_;
    ForkGuard fork_guard_;
    AliasHolders alias_holders_;
    mutable std::mutex mutex_;  // protects all below; before the locks of caches and store
    FreeBlocks zero_;
    FreeBlocks dirty_;
    // Invariant: `free_in_[b]` is how many pages of pageblock b are in zero_ or dirty_; bit b of `whole_` is set iff
    // all.
    std::vector<std::uint16_t> free_in_;
    Bitmap whole_;
    std::optional<Pfn> next_;  // the pageblock after the last one that came in: adjoining ones are one mapping
    UnmappedStatistics statistics_;
    std::uint64_t allocated_ = 0;
    std::uint64_t departures_ = 0;  // blocks that left the direct map
};

}  // namespace harena
