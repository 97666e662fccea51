// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>

#include "harena/base/fork.hpp"
#include "harena/base/result.hpp"
#include "harena/page/alloc_flags.hpp"
#include "harena/page/page_ledger.hpp"
#include "harena/page/page_store.hpp"
#include "harena/page/shrinker.hpp"
#include "harena/page/thread_cache.hpp"

namespace harena {

class UnmappedCache;

struct PagePoolOptions {
    /// How many pages there can be at most, rounded up to pageblocks (512). Memory is used as the pool grows.
    PageCount capacity;
    /// On the machine's reserved 2 MiB pages.
    bool hugetlb = false;
    /// New pageblocks become one 2 MiB page where the machine can.
    bool collapse = true;
    /// How many mappings the direct map may consist of; what would make more stays mapped.
    std::uint64_t max_vmas = 16'384;
    /// NUMA nodes; none: as many as the machine has.
    std::optional<unsigned> nodes = std::nullopt;
};

struct PagePoolStatistics {
    PageCount capacity;
    /// In pageblocks that are in the pool now: free, cached, unmapped or allocated.
    PageCount grown;
    PageCount free;
    /// In threads' caches.
    PageCount cached;
    /// In the cache of unmapped pages, free.
    PageCount unmapped_free;
    /// Given to callers, unmapped ones too.
    PageCount allocated;
    /// Free blocks of each order.
    PerOrder free_blocks{};
};

/// The physical memory of a process: a file whose pages are handed out in blocks of 2^order, all of it mapped at one
/// place (the direct map), except what is kept without an address (`unmapped`).
///
/// Thread-safe, but not for signal handlers. In a child after fork, everything is EOWNERDEAD. Kernel: mm/page_alloc.c.
class PagePool final : public Shrinker {
public:
    /// Errors: EINVAL (capacity or nodes), EFBIG (RLIMIT_FSIZE), ENOMEM (addresses, mappings), ENOTSUP (no
    /// hugetlb), EMFILE.
    [[nodiscard]] static Result<std::unique_ptr<PagePool>> create(const PagePoolOptions& options);
    PagePool(const PagePool&) = delete;
    PagePool& operator=(const PagePool&) = delete;
    /// All pages must be back, and no thread may use the pool any more. Debug builds abort otherwise.
    ~PagePool() override;

    /// A block of 2^order pages, aligned to its size, with one reference. Errors: ENOMEM: the pool's capacity, the
    /// system's memory, or the limit of an account (named); EOWNERDEAD.
    [[nodiscard]] Result<Page*> alloc_pages(Order order, const AllocFlags& flags = {},
                                            const Site& where = Site::current());
    /// Gives a block back; an unmapped one goes to the unmapped cache. Errors, after which nothing has changed: EINVAL
    /// (not a page of this pool, freed before, the inside of a block, another order), EBUSY (more than one reference),
    /// EOWNERDEAD. Debug builds abort at all but the last.
    Result<void> free_pages(Page* page, Order order, const Site& where = Site::current());

    /// Fills `pages` with single pages, or, after an error, with none. Errors as `alloc_pages`.
    Result<void> alloc_bulk(std::span<Page*> pages, const AllocFlags& flags = {}, const Site& where = Site::current());
    /// Frees single pages. After an error, which is that of the first bad one, all others are free all the same.
    Result<void> free_bulk(std::span<Page* const> pages, const Site& where = Site::current());

    /// One reference more to an allocated block. Errors: EINVAL (not an allocated block), EOVERFLOW.
    Result<void> get_page(Page* page, const Site& where = Site::current());
    /// One reference less; the last one frees the block. Errors as `free_pages`.
    Result<void> put_page(Page* page, const Site& where = Site::current());

    /// Where `page` is in the direct map. Inaccessible if the page is unmapped, or not in the pool at the moment.
    [[nodiscard]] std::byte* page_address(const Page* page) const noexcept {
        return store_->direct_map().address(pfn(page));
    }
    /// Its number: its bytes are at 4096 times this in the pool's file.
    [[nodiscard]] Pfn pfn(const Page* page) const noexcept { return store_->pages().pfn_of(*page); }
    /// The descriptor of page `pfn`, which is below the capacity.
    [[nodiscard]] Page* page(Pfn pfn) const noexcept { return &store_->pages()[pfn]; }
    /// The first page of the allocated block that `page` is in, at some moment; null if it is in none, or not a page of
    /// this pool. Thread-safe.
    [[nodiscard]] const Page* block_of(const Page* page) const noexcept;
    /// The NUMA node that the memory of page `pfn` was wanted on.
    [[nodiscard]] unsigned node(Pfn pfn) const noexcept {
        return store_->pageblock(pfn).node.load(std::memory_order_relaxed);
    }
    /// Copies bytes to or from an allocated block through the pool's file: it needs no address. Errors: ERANGE (more
    /// than the block has), EIO, ENOMEM.
    Result<void> write(const Page* block, std::uint64_t offset, std::span<const std::byte> bytes);
    Result<void> read(const Page* page, std::uint64_t offset, std::span<std::byte> bytes) const;
    /// The descriptor of the page at `address`; null if that is not in the direct map.
    [[nodiscard]] Page* page_at(const void* address) const noexcept;

    [[nodiscard]] PageCount capacity() const noexcept { return store_->capacity(); }
    /// How many of the 512 pages of the pageblock that `pfn` is in are out of the direct map now.
    [[nodiscard]] std::uint32_t unmapped_in_pageblock(Pfn pfn) const noexcept {
        return store_->pageblock(pfn).unmapped.load(std::memory_order_relaxed);
    }
    /// Pages that have no address in the process but what their owners choose.
    [[nodiscard]] UnmappedCache& unmapped() noexcept { return *unmapped_; }

    /// Brings free pages together: those in threads' caches, and, for `wanted` pages, those in the unmapped cache.
    /// Returns how many came from there. Errors: EOWNERDEAD, or why nothing could leave the unmapped cache.
    Result<PageCount> reclaim(PageCount wanted);
    /// Gives memory of free pageblocks back to the system, after `reclaim`: `wanted` pages at most, rounded up to
    /// pageblocks. Returns how many. Errors: EOWNERDEAD, or why nothing could be given back.
    Result<PageCount> trim(PageCount wanted);
    /// Pages that are free, here or in the unmapped cache.
    [[nodiscard]] PageCount count() const override;
    /// As `trim`: for a `PressureMonitor`.
    Result<PageCount> shrink(PageCount wanted) override { return trim(wanted); }

    /// Exact while no other thread allocates or frees. All 0 in a child after fork, as `count`.
    [[nodiscard]] PagePoolStatistics statistics();
    /// Reads the process's page tables: slow. Errors: that of reading /proc/self/smaps.
    [[nodiscard]] Result<DirectMapStatistics> direct_map_statistics() const {
        return store_->direct_map().statistics();
    }
    /// The pool's file, to map pages of it elsewhere. Who has it can read unmapped pages.
    [[nodiscard]] int fd() const noexcept { return store_->direct_map().fd(); }

private:
    explicit PagePool(std::unique_ptr<PageStore> store, PageLedger ledger);

    [[nodiscard]] NodeChoice node_for(const AllocFlags& flags) const noexcept;
    /// With the account charged: takes it off again if there is nothing to be had.
    [[nodiscard]] Result<Page*> alloc_uncached(Order order, const AllocFlags& flags, const Site& where);
    [[nodiscard]] ThreadCache::Entry pop_cached(const AllocFlags& flags) noexcept;
    [[nodiscard]] bool push_cached(Pfn page) noexcept;
    /// Takes a block, if need be after bringing free pages together.
    [[nodiscard]] Result<FreeBlock> take(Order order, const AllocFlags& flags);
    void zero(const FreeBlock& block) const noexcept;

    std::unique_ptr<PageStore> store_;
    PageLedger ledger_;
    ForkGuard fork_guard_;
    ThreadCaches caches_;
    std::unique_ptr<UnmappedCache> unmapped_;
};

}  // namespace harena
