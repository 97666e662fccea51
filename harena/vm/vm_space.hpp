// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <initializer_list>
#include <memory>
#include <mutex>
#include <optional>
#include <source_location>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "harena/base/fork.hpp"
#include "harena/base/not_inherited.hpp"
#include "harena/base/result.hpp"
#include "harena/base/signal_safe_registry.hpp"
#include "harena/page/alias_holder.hpp"
#include "harena/page/page_pool.hpp"
#include "harena/vm/area_index.hpp"
#include "harena/vm/area_table.hpp"
#include "harena/vm/range_tree.hpp"
#include "harena/vm/spare_mappings.hpp"
#include "harena/vm/vm_area.hpp"
#include "harena/vm/vm_window.hpp"

namespace harena {

struct VmSpaceOptions {
    /// Addresses that are reserved, rounded up to 2 MiB.
    std::uint64_t bytes = 64 * k_gib;
    /// Where the pages of vmalloc come from, and those that are mapped are in. May be null for a space without either.
    PagePool* pool = nullptr;
    /// How many mappings it may consist of: a process has 65,530 unless vm.max_map_count says otherwise, and the host
    /// needs some.
    std::uint64_t max_vmas = 32'768;
    /// How many areas there can be at most. Of its table, only what was used takes memory.
    std::uint32_t max_areas = AreaTable::k_capacity;
};

/// What an area is for, and who asks. Text must outlive the call only.
struct VmAreaOptions {
    bool user = false;
    bool exec = false;
    /// Without a guard page after it; such an area cannot be sparse.
    bool no_guard = false;
    std::string_view name = {};
    std::source_location where = std::source_location::current();
};

/// How vmalloc gets its pages.
struct VmallocOptions {
    /// On pages that have no other address in the process.
    bool unmapped = false;
    /// Must live until the pages are back: after `vfree`, that is at the next `purge` at the latest.
    PageAccount* account = nullptr;
    std::string_view name = {};
    std::source_location where = std::source_location::current();
};

struct VmStatistics {
    std::uint64_t areas = 0;
    /// Ranges that are free but still mapped, and their bytes.
    std::uint64_t unpurged = 0;
    std::uint64_t unpurged_bytes = 0;
    /// Bytes that no area has.
    std::uint64_t free_bytes = 0;
    std::uint64_t largest_free_bytes = 0;
    /// How often ranges were unmapped together, and how often that failed.
    std::uint64_t purges = 0;
    std::uint64_t purge_failures = 0;
    /// Mappings that the space consists of, inaccessible ones included; those of vm_map_ram may be fewer.
    std::uint64_t vmas = 0;
};

/// A part of a space that somebody has. Made by `VmSpace`, which owns it; a pointer to it holds until it is freed.
class VmArea {
public:
    VmArea() = default;
    VmArea(const VmArea&) = delete;
    VmArea& operator=(const VmArea&) = delete;
    ~VmArea() = default;

    [[nodiscard]] std::byte* begin() const noexcept { return begin_; }
    /// Without the guard.
    [[nodiscard]] std::uint64_t bytes() const noexcept { return pages_ * k_page_size; }
    [[nodiscard]] VmKind kind() const noexcept { return kind_; }
    [[nodiscard]] bool has_guard() const noexcept { return guard_pages_ != 0; }

private:
    friend class VmSpace;

    /// Nobody's again.
    void clear() noexcept {
        begin_ = nullptr;
        pages_ = guard_pages_ = 0;
        number_ = 0;
        edges_ = 0;
        has_unmapped_ = stale_ = false;
        blocks_.clear();
        table_ = {};
        counter_ = nullptr;
    }

    std::byte* begin_ = nullptr;
    std::uint64_t pages_ = 0;
    std::uint64_t guard_pages_ = 0;
    VmKind kind_ = VmKind::alloc;
    std::uint32_t number_ = 0;
    /// Pages are mapped that have no other address: they are unmapped at once when the area is freed.
    bool has_unmapped_ = false;
    /// Something may be mapped where the table has nothing: undoing a failed call failed too.
    bool stale_ = false;
    /// Ends of mappings in it, where another or none begins; what it adds to the space's mappings.
    std::uint64_t edges_ = 0;
    /// Blocks that vmalloc took, to be given back.
    std::vector<Page*> blocks_;
    /// Page frame number + 1 of each page that is mapped, 0 where none is; made with the area, so that mapping needs no
    /// memory. Empty for areas that have no pages of the pool.
    std::vector<std::uint32_t> table_;
    /// Of a window that says how many pages it has.
    const VmPageCounter* counter_ = nullptr;
};

/// A reserved range of addresses, and areas in it: the lowest first, each with a guard page after it, found by address.
///
/// What is freed is unmapped later, together with its neighbours; its pages and addresses are used again only after
/// that. Pages that have no other address are unmapped at once. Thread-safe; in a child after fork, everything is
/// EOWNERDEAD, and there is nothing to be found. Kernel: mm/vmalloc.c.
class VmSpace final : private AliasHolder {
public:
    /// Errors: EINVAL (0 bytes, or more than 64 TiB), ENOTSUP (a hugetlb pool, whose pages cannot be mapped one by
    /// one), ENOMEM (addresses, RLIMIT_AS), EFBIG (RLIMIT_FSIZE), EMFILE.
    [[nodiscard]] static Result<std::unique_ptr<VmSpace>> create(const VmSpaceOptions& options);
    VmSpace(const VmSpace&) = delete;
    VmSpace& operator=(const VmSpace&) = delete;
    /// All areas go; pages of vmalloc go back to the pool, which must outlive the space.
    ~VmSpace() override;

    /// The space that all of the process shares, for windows: made at its first use, without a pool, and never
    /// destroyed. A forked child has one of its own. Errors as `create`. Thread-safe.
    [[nodiscard]] static Result<VmSpace*> process();

    // --- areas ---

    /// An area of `bytes` (rounded up to pages) in which nothing is mapped. Errors: EINVAL (0 bytes, a sparse area
    /// without guard, or one of kind `ram`), ENOMEM (no range so large is free; memory), EOWNERDEAD.
    [[nodiscard]] Result<VmArea*> get_vm_area(std::uint64_t bytes, VmKind kind, const VmAreaOptions& options = {});
    /// The area or window that `address` is in, its guards included, at some moment during the call; none if there is
    /// none. Lock-free and async-signal-safe.
    [[nodiscard]] std::optional<AreaRecord> find_vm_area(const void* address) const noexcept;
    /// Unmaps the area and frees it. Errors, after which it is as it was: EINVAL (not an area of this space), ENOMEM
    /// (mappings; only if it has pages without another address), EOWNERDEAD.
    Result<void> free_vm_area(VmArea* area);
    /// The same for the area that begins at `address`; says what it was. Errors: ENOENT (no area begins there), ENOMEM
    /// (as above, and memory), EOWNERDEAD.
    Result<VmAreaInfo> remove_vm_area(const void* address);
    /// Reserves addresses outside of the space's own range; the space must outlive the window. Errors: EINVAL (0 bytes,
    /// no whole pages, alignment), EEXIST (names the mapping in the way), ENOMEM (names the limit where there is one),
    /// EOWNERDEAD.
    [[nodiscard]] Result<VmWindow> take_window(const VmWindowOptions& options);

    // --- pages ---

    /// Maps pages of the caller, in this order, as one range; they must be allocated until it is unmapped. Errors:
    /// EINVAL (no pages, or one that is null or not of the pool), ENOMEM (addresses, mappings), EOWNERDEAD.
    [[nodiscard]] Result<void*> vmap(std::span<Page* const> pages, VmProtection protection = VmProtection::read_write,
                                     const VmAreaOptions& options = {});
    /// Errors: ENOENT (no vmap begins at `address`), ENOMEM (as `free_vm_area`), EOWNERDEAD.
    Result<void> vunmap(const void* address);

    /// Memory of whole pages, adjoining in addresses only. Contents are undefined; `vzalloc` gives zeros. Errors:
    /// EINVAL (0 bytes), ENOMEM (pages, an account's limit, addresses, mappings), EOWNERDEAD.
    [[nodiscard]] Result<void*> vmalloc(std::uint64_t bytes, const VmallocOptions& options = {});
    [[nodiscard]] Result<void*> vzalloc(std::uint64_t bytes, const VmallocOptions& options = {});
    /// Memory with these contents that nothing can change: it is mapped for reading only, and has no other address.
    [[nodiscard]] Result<const void*> vmalloc_sealed(std::span<const std::byte> contents,
                                                     const VmallocOptions& options = {});
    /// Errors: ENOENT (no vmalloc begins at `address`), ENOMEM (as `free_vm_area`), EOWNERDEAD.
    Result<void> vfree(const void* address);

    /// Maps `bytes` of a file or device from `offset` (a multiple of 4096) on. Errors: EINVAL (a file on hugetlb pages,
    /// too), and those of mmap.
    [[nodiscard]] Result<void*> ioremap(int fd, std::uint64_t offset, std::uint64_t bytes,
                                        VmProtection protection = VmProtection::read_write,
                                        const VmAreaOptions& options = {});
    /// Errors: ENOENT (no ioremap begins at `address`), EOWNERDEAD.
    Result<void> iounmap(const void* address);

    // --- sparse areas ---

    /// Maps `pages` at [start, end) of a sparse area, which must be unmapped there; one mmap for each run of adjoining
    /// pages. After an error, the area is as it was. Needs no memory of ours. Errors, in this order: EINVAL (not a
    /// sparse area with a guard, bounds that are no page addresses), E2BIG (more pages than the machine has), ERANGE
    /// (outside of the area), EINVAL (not as many pages as the range has), EBUSY (a page is mapped), ENOMEM (a null
    /// page), EINVAL (not an allocated page of the pool), ENOMEM (mappings). Kernel: vm_area_map_pages.
    Result<void> map_pages(VmArea* area, const void* start, const void* end, std::span<Page* const> pages);
    /// Unmaps what is mapped of [start, end), at once. Errors: EINVAL, E2BIG and ERANGE as above, ENOMEM (mappings).
    /// Kernel: vm_area_unmap_pages.
    Result<void> unmap_pages(VmArea* area, const void* start, const void* end);

    // --- mappings for a moment ---

    /// Maps up to 256 pages for a moment, at addresses that are used in turn. Errors as `vmap`, and E2BIG.
    [[nodiscard]] Result<void*> vm_map_ram(std::span<Page* const> pages);
    /// Errors: ENOENT (no mapping of `count` pages that vm_map_ram made begins there), ENOMEM (mappings; only if a page
    /// has no other address), EOWNERDEAD.
    Result<void> vm_unmap_ram(const void* address, std::size_t count);

    // --- all of it ---

    /// Copies `bytes` from `address` on to `to`, whatever is there: gaps, guards, sparse areas and devices read as
    /// zero. Never faults, and never reads a page that was freed. Errors: ERANGE (not in the space), EOWNERDEAD, EIO.
    /// Kernel: vread.
    Result<void> read(void* to, const void* address, std::uint64_t bytes);

    /// Unmaps all that waits for it. Errors: ENOMEM (mappings); then it waits on.
    Result<void> purge();

    /// One line an area, by address: range, bytes with guard, who asked, pages, words for what it is.
    /// Errors: ENOMEM, EOWNERDEAD.
    [[nodiscard]] Result<std::string> vmallocinfo() const;
    /// The same as values. Errors: ENOMEM, EOWNERDEAD.
    [[nodiscard]] Result<std::vector<VmAreaInfo>> areas() const;
    [[nodiscard]] VmStatistics statistics() const;
    [[nodiscard]] std::byte* base() const noexcept { return base_; }
    [[nodiscard]] std::uint64_t bytes() const noexcept { return bytes_; }

private:
    friend class VmWindow;

    struct Unpurged {
        std::uint32_t number = 0;  // of its record
        VmPage first;
        std::uint64_t pages = 0;  // with the guard
        std::uint64_t edges = 0;
        std::vector<Page*> blocks;
    };
    /// What vm_map_ram hands out in turn: an area, of which each page is used once until all are back.
    static constexpr std::uint64_t k_ram_pages = 1024;
    struct RamBlock {
        VmArea* area = nullptr;
        std::uint64_t next = 0;  // page
        std::uint64_t live = 0;  // mappings
        /// What is not in the area's table between these pages may still be mapped.
        std::uint64_t stale_begin = k_ram_pages;
        std::uint64_t stale_end = 0;
        /// Of the mapping that begins at each page; 0: none does.
        std::array<std::uint16_t, k_ram_pages> lengths{};

        void add_stale(std::uint64_t first, std::uint64_t count) noexcept {
            stale_begin = std::min(stale_begin, first);
            stale_end = std::max(stale_end, first + count);
        }
    };

    VmSpace(std::byte* base, std::uint64_t bytes, const VmSpaceOptions& options);

    [[nodiscard]] VmPage page_of(const void* address) const noexcept {
        return VmPage{static_cast<std::uint64_t>(static_cast<const std::byte*>(address) - base_) / k_page_size};
    }
    [[nodiscard]] std::byte* address_of(VmPage page) const noexcept { return base_ + page.value() * k_page_size; }
    [[nodiscard]] bool contains(const void* address) const noexcept;

    /// For a page that leaves the direct map: it shall have no address here either.
    Result<void> drop_aliases() override;

    // With the lock held.
    [[nodiscard]] Result<VmArea*> make_area(std::uint64_t pages, VmKind kind, const VmAreaOptions& options,
                                            std::uint64_t file_offset = 0);
    /// What `make_area` needs memory for, but for the range: after an error, no number is taken.
    [[nodiscard]] Result<std::uint32_t> prepare_area(VmPage first, VmPage end, std::uint64_t table_pages);
    [[nodiscard]] Result<VmPage> take_range(std::uint64_t pages);
    /// The live area of one of `kinds` that begins at `address`; null if none does.
    [[nodiscard]] VmArea* area_at(const void* address, std::initializer_list<VmKind> kinds) noexcept;
    /// None if the number is nobody's.
    [[nodiscard]] std::optional<VmAreaInfo> info_of(std::uint32_t number) const;
    [[nodiscard]] bool owns(const VmArea* area) const noexcept;
    /// An area that nobody has any more: its range waits to be unmapped, or is free if nothing is mapped in it. Errors:
    /// ENOMEM: pages that have no other address cannot be unmapped now; the area is as it was.
    Result<void> retire(VmArea& area);
    /// The same where nobody could try again: what cannot be unmapped waits.
    void abandon(VmArea& area) noexcept;
    void take_leave(VmArea& area, bool waits) noexcept;
    void forget(const Unpurged& range) noexcept;
    Result<void> purge_locked();
    /// Unmaps what is not in an area's table between two of its pages.
    Result<void> unmap_gaps(const VmArea& area, std::uint64_t first, std::uint64_t end);
    Result<void> unmap_stale_areas();

    /// Room in the budget of mappings for `more`, if need be after unmapping what waits. Errors: ENOMEM.
    Result<void> make_room(std::uint64_t more);
    /// The same, and they count as an area's from then on.
    Result<void> add_edges(VmArea& area, std::uint64_t more);
    void remove_edges(VmArea& area, std::uint64_t fewer) noexcept;
    /// Ends of mappings from before the first to after the last of pages [first, first + count) of a table.
    [[nodiscard]] static std::uint64_t edges_of(std::span<const std::uint32_t> table, std::uint64_t first,
                                                std::uint64_t count) noexcept;

    /// Whether any of them has no other address.
    [[nodiscard]] Result<bool> check_pages(std::span<Page* const> pages, int code_of_null) const;
    /// Maps what the table says of pages [first, first + count) of an area; after an error, none of them.
    Result<void> map_table(VmArea& area, std::uint64_t first, std::uint64_t count, VmProtection protection,
                           bool populate);
    Result<void> map_nothing(VmPage first, std::uint64_t pages);
    /// Maps a file's bytes in the whole of an area; after an error, none of them.
    Result<void> map_device(VmArea& area, int fd, std::uint64_t offset, VmProtection protection);
    /// Of a sparse area: the first page and the number of pages of [start, end).
    struct Pages {
        std::uint64_t first;
        std::uint64_t count;
    };
    [[nodiscard]] Result<Pages> check_range(const VmArea* area, const void* start, const void* end) const;
    /// Maps the whole of a new area, whose table is filled; after an error, the area is gone.
    [[nodiscard]] Result<void*> map_whole(VmArea& area, VmProtection protection);
    [[nodiscard]] Result<void*> allocate(std::uint64_t bytes, bool zero,
                                         std::optional<std::span<const std::byte>> sealed,
                                         const VmallocOptions& options);
    [[nodiscard]] Result<std::vector<Page*>> take_blocks(std::uint64_t pages, bool zero, const VmallocOptions& options);
    [[nodiscard]] Result<void> write_sealed(std::span<Page* const> blocks, std::span<const std::byte> contents) const;
    void free_blocks(std::span<Page* const> blocks) const noexcept;
    Result<void> free_at(const void* address, std::initializer_list<VmKind> kinds, std::string_view what);
    /// A block with room for `pages`; it becomes the last one.
    [[nodiscard]] Result<RamBlock*> ram_block(std::uint64_t pages);
    [[nodiscard]] Result<void> add_ram_block();
    Result<void> reset(RamBlock& block);
    /// Unmaps what has been given back of a block, or of all; blocks that are back whole go.
    Result<void> unmap_stale(RamBlock& block);
    Result<void> purge_ram();
    /// Updates the numbers of pages of windows that know them.
    void count_window_pages() const noexcept;

    // Without it.
    void give_window(const VmWindow& window) noexcept;
    void set_page_counter(std::uint32_t number, const VmPageCounter* counter) noexcept;
    [[nodiscard]] std::optional<AreaRecord> find_window(const void* address) const noexcept;

    std::byte* base_;
    std::uint64_t bytes_;
    PagePool* pool_ = nullptr;
    std::uint64_t max_vmas_;
    std::unique_ptr<AreaTable> records_;
    AreaIndex index_;
    ForkGuard fork_guard_;
    std::optional<NotInherited> not_inherited_;
    SignalSafeRegistry<AreaRecord> windows_;
    VmSpace* before_fork_ = nullptr;  // of the space of a forked process: its parent's

    mutable std::mutex mutex_;  // protects all below, and the writers of records_ and index_; before the pool's locks
    RangeTree free_;
    std::deque<VmArea> areas_;        // by number
    std::vector<Unpurged> unpurged_;  // has room for all areas
    std::uint64_t unpurged_pages_ = 0;
    std::vector<std::unique_ptr<RamBlock>> ram_;  // the last one is in use, others wait until their mappings are back
    std::uint64_t edges_ = 0;                     // of all areas and unpurged ranges
    bool stale_areas_ = false;                    // some sparse area may be stale
    SpareMappings spare_;  // so that what was begun can be undone, and what is mapped can be unmapped
    VmStatistics statistics_;
};

}  // namespace harena
