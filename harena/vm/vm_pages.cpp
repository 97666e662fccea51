// SPDX-License-Identifier: Apache-2.0
// vmap, vmalloc, ioremap: areas that are mapped whole.
#include <sys/mman.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <new>
#include <utility>

#include "harena/base/map_error.hpp"
#include "harena/base/os/memory.hpp"
#include "harena/page/unmapped_cache.hpp"
#include "harena/vm/vm_space.hpp"

namespace harena {

namespace {

int protection_of(VmProtection protection) noexcept {
    return protection == VmProtection::read ? PROT_READ : PROT_READ | PROT_WRITE;
}

}  // namespace

Result<bool> VmSpace::check_pages(std::span<Page* const> pages, int code_of_null) const {
    if (pool_ == nullptr) return fail(EINVAL, "this space has no pool: no pages can be mapped in it");
    if (const auto null = std::ranges::find(pages, nullptr); null != pages.end())
        return fail(code_of_null, "page {} of {} is null", null - pages.begin(), pages.size());
    bool unmapped = false;
    for (std::size_t i = 0; i < pages.size(); ++i) {
        const Page* const block = pool_->block_of(pages[i]);
        if (block == nullptr)
            return fail(EINVAL, "page {} of {} is not an allocated page of the space's pool", i, pages.size());
        unmapped |= block->unmapped();
    }
    return unmapped;
}

Result<void> VmSpace::map_table(VmArea& area, std::uint64_t first, std::uint64_t count, VmProtection protection,
                                bool populate) {
    HARENA_CHECK_OK(spare_.make());  // what is begun shall be undone, at the limit of mappings too
    const int flags = MAP_SHARED | MAP_FIXED | (populate ? MAP_POPULATE : 0);
    for (std::uint64_t i = first; i < first + count;) {
        // Pages whose numbers adjoin are one mapping.
        std::uint64_t run = 1;
        while (i + run < first + count && area.table_[i + run] == area.table_[i] + run) ++run;
        std::byte* const at = area.begin_ + i * k_page_size;
        const Pfn pfn{area.table_[i] - 1};
        const auto mapped =
            os::mmap(at, run * k_page_size, protection_of(protection), flags, pool_->fd(), byte_offset(pfn));
        if (!mapped) {
            // With the run that failed: a kernel before 6.12 may have unmapped what it was to replace.
            std::byte* const begin = area.begin_ + first * k_page_size;
            const std::uint64_t begun = i + run - first;
            if (!map_nothing(page_of(begin), begun)) {
                area.stale_ = stale_areas_ = true;  // inaccessible for now, and unmapped with all else that waits
                (void)os::mprotect(begin, begun * k_page_size, PROT_NONE);
            }
            return map_error(mapped.error(), "cannot map {} pages at {}", run, fmt::ptr(at));
        }
        i += run;
    }
    (*records_)[area.number_].pages.fetch_add(count, std::memory_order_relaxed);
    return {};
}

Result<void*> VmSpace::map_whole(VmArea& area, VmProtection protection) {
    auto mapped = add_edges(area, edges_of(area.table_, 0, area.pages_));
    if (mapped) mapped = map_table(area, 0, area.pages_, protection, true);
    if (mapped) return area.begin_;
    abandon(area);
    return pass_on(mapped.error());
}

Result<void*> VmSpace::vmap(std::span<Page* const> pages, VmProtection protection, const VmAreaOptions& options) {
    HARENA_CHECK_OK(fork_guard_.check("the address space"));
    if (pages.empty()) return fail(EINVAL, "no pages to map");
    HARENA_TRY(const bool unmapped, check_pages(pages, EINVAL));
    std::vector<std::uint32_t> table;
    try {
        table.reserve(pages.size());
    } catch (const std::bad_alloc&) {
        return fail(ENOMEM, "no memory for the list of {} pages", pages.size());
    }
    for (const Page* const page : pages) table.push_back(pool_->pfn(page).value() + 1);
    const std::lock_guard lock{mutex_};
    HARENA_TRY(VmArea* const area, make_area(pages.size(), VmKind::map, options));
    area->table_ = std::move(table);
    area->has_unmapped_ = unmapped;
    return map_whole(*area, protection);
}

Result<void> VmSpace::vunmap(const void* address) { return free_at(address, {VmKind::map}, "a vmap"); }

Result<std::vector<Page*>> VmSpace::take_blocks(std::uint64_t pages, bool zero, const VmallocOptions& options) {
    if (pages > pool_->capacity().value())
        return fail(ENOMEM, "{} pages: the capacity of the pool is {}", pages, pool_->capacity().value());
    const AllocFlags flags{.no_zero = !zero, .account = options.account};
    std::vector<Page*> blocks;
    try {
        auto order = k_pageblock_order;
        for (std::uint64_t left = pages; left > 0;) {
            // Large blocks where there are any, for fewer mappings; what was not there once is not asked for again.
            order = std::min(order, Order{static_cast<std::uint8_t>(std::bit_width(left) - 1)});
            blocks.reserve(blocks.size() < blocks.capacity() ? 0 : 2 * blocks.size() + 1);
            auto block = options.unmapped ? pool_->unmapped().unmapped_pages_alloc(order, flags)
                                          : pool_->alloc_pages(order, flags);
            if (block) {
                blocks.push_back(*block);
                left -= pages_of(order);
            } else if (order > Order{} && block.error().code() == ENOMEM) {
                order = Order{static_cast<std::uint8_t>(order.value() - 1)};
            } else {
                free_blocks(blocks);
                return pass_on(block.error());
            }
        }
    } catch (const std::bad_alloc&) {
        free_blocks(blocks);
        return fail(ENOMEM, "no memory for the list of {} pages", pages);
    }
    return blocks;
}

void VmSpace::free_blocks(std::span<Page* const> blocks) const noexcept {
    // Whoever has another reference keeps the block.
    for (Page* const block : blocks) (void)pool_->put_page(block);
}

Result<void> VmSpace::write_sealed(std::span<Page* const> blocks, std::span<const std::byte> contents) const {
    // Through the file: there is no address to write to, and never was.
    for (const Page* const block : blocks) {
        const auto part = contents.first(std::min<std::size_t>(contents.size(), bytes_of(block->order())));
        HARENA_CHECK_OK(pool_->write(block, 0, part));
        contents = contents.subspan(part.size());
    }
    return {};
}

Result<void*> VmSpace::allocate(std::uint64_t bytes, bool zero, std::optional<std::span<const std::byte>> sealed,
                                const VmallocOptions& options) {
    HARENA_CHECK_OK(fork_guard_.check("the address space"));
    if (pool_ == nullptr) return fail(EINVAL, "this space has no pool to allocate from");
    if (bytes == 0) return fail(EINVAL, "an allocation of 0 bytes");
    if (bytes > bytes_) return fail(ENOMEM, "{} bytes in a space of {}", bytes, bytes_);
    const std::uint64_t pages = pages_for(bytes).value();
    auto taken = take_blocks(pages, zero, options);
    if (!taken && taken.error().code() == ENOMEM) {
        // What waits to be unmapped has pages too, and they count for their accounts.
        (void)purge();
        taken = take_blocks(pages, zero, options);
    }
    HARENA_TRY(std::vector<Page*> blocks, std::move(taken));
    Result<void> filled = sealed ? write_sealed(blocks, *sealed) : Result<void>{};
    std::vector<std::uint32_t> table;
    try {
        table.reserve(pages);
    } catch (const std::bad_alloc&) {
        filled = fail(ENOMEM, "no memory for the list of {} pages", pages);
    }
    if (!filled) {
        free_blocks(blocks);
        return pass_on(filled.error());
    }
    for (const Page* const block : blocks)
        for (std::uint32_t i = 0; i < pages_of(block->order()); ++i) table.push_back(pool_->pfn(block).value() + i + 1);
    const std::lock_guard lock{mutex_};
    const auto area = make_area(pages, VmKind::alloc, {.name = options.name, .where = options.where});
    if (!area) {
        free_blocks(blocks);
        return pass_on(area.error());
    }
    (*area)->table_ = std::move(table);
    (*area)->has_unmapped_ = options.unmapped;
    (*area)->blocks_ = std::move(blocks);
    return map_whole(**area, sealed ? VmProtection::read : VmProtection::read_write);
}

Result<void*> VmSpace::vmalloc(std::uint64_t bytes, const VmallocOptions& options) {
    return allocate(bytes, false, std::nullopt, options);
}

Result<void*> VmSpace::vzalloc(std::uint64_t bytes, const VmallocOptions& options) {
    return allocate(bytes, true, std::nullopt, options);
}

Result<const void*> VmSpace::vmalloc_sealed(std::span<const std::byte> contents, const VmallocOptions& options) {
    VmallocOptions unmapped = options;
    unmapped.unmapped = true;
    // Zeroed, since the last page is not filled.
    HARENA_TRY(void* const sealed, allocate(contents.size(), true, contents, unmapped));
    return static_cast<const void*>(sealed);
}

Result<void> VmSpace::vfree(const void* address) { return free_at(address, {VmKind::alloc}, "a vmalloc"); }

Result<void> VmSpace::map_device(VmArea& area, int fd, std::uint64_t offset, VmProtection protection) {
    const auto failed = [&](os::SysError error) {
        return map_error(error, "cannot map {} bytes of the file", area.bytes());
    };
    const auto hugetlb = os::is_hugetlb(fd);
    if (!hugetlb) return failed(hugetlb.error());
    if (*hugetlb) return fail(EINVAL, "a file on hugetlb pages is mapped by whole ones: they do not fit into an area");
    HARENA_CHECK_OK(spare_.make());
    // At other addresses first: the kernel asks the driver when what MAP_FIXED replaces is gone already, so that a
    // refusal would leave a hole in the space, and another thread's mmap could get it.
    const auto elsewhere = os::mmap(nullptr, area.bytes(), protection_of(protection), MAP_SHARED, fd, offset);
    if (!elsewhere) return failed(elsewhere.error());
    const auto moved = os::mremap_over(*elsewhere, area.bytes(), area.begin_);
    if (moved) return {};
    (void)os::munmap(*elsewhere, area.bytes());
    area.stale_ = !map_nothing(page_of(area.begin_), area.pages_);
    return failed(moved.error());
}

Result<void*> VmSpace::ioremap(int fd, std::uint64_t offset, std::uint64_t bytes, VmProtection protection,
                               const VmAreaOptions& options) {
    HARENA_CHECK_OK(fork_guard_.check("the address space"));
    if (bytes == 0 || !is_aligned(offset, k_page_size))
        return fail(EINVAL, "{} bytes at offset {} of a file: not 0, and from a multiple of {} on", bytes, offset,
                    k_page_size);
    if (bytes > bytes_) return fail(ENOMEM, "{} bytes in a space of {}", bytes, bytes_);
    const std::lock_guard lock{mutex_};
    HARENA_TRY(VmArea* const area, make_area(pages_for(bytes).value(), VmKind::ioremap, options, offset));
    Result<void> mapped = add_edges(*area, 2);
    if (mapped) mapped = map_device(*area, fd, offset, protection);
    if (!mapped) {
        abandon(*area);
        return pass_on(mapped.error());
    }
    (*records_)[area->number_].pages.store(area->pages_, std::memory_order_relaxed);
    return area->begin_;
}

Result<void> VmSpace::iounmap(const void* address) { return free_at(address, {VmKind::ioremap}, "an ioremap"); }

Result<void> VmSpace::read(void* to, const void* address, std::uint64_t bytes) {
    HARENA_CHECK_OK(fork_guard_.check("the address space"));
    const std::uint64_t offset = static_cast<std::uint64_t>(static_cast<const std::byte*>(address) - base_);
    if (offset > bytes_ || bytes > bytes_ - offset)
        return fail(ERANGE, "{} bytes at {} are not in the space", bytes, fmt::ptr(address));
    // Page by page, each with the lock: nothing is unmapped or freed while it is read, and nobody waits for long.
    auto* out = static_cast<std::byte*>(to);
    for (std::uint64_t at = offset; at < offset + bytes;) {
        const std::uint64_t part = std::min(offset + bytes - at, k_page_size - at % k_page_size);
        const std::lock_guard lock{mutex_};
        const AreaIndex::Number number = index_.find(VmPage{at / k_page_size});
        const Page* page = nullptr;
        if (number != AreaIndex::k_none && areas_[number].kind_ != VmKind::sparse) {
            const VmArea& area = areas_[number];
            const std::uint64_t i = (at - static_cast<std::uint64_t>(area.begin_ - base_)) / k_page_size;
            if (i < area.table_.size() && area.table_[i] != 0) page = pool_->page(Pfn{area.table_[i] - 1});
        }
        // What its owner has freed without unmapping it is somebody else's now.
        if (page != nullptr && pool_->block_of(page) != nullptr) {
            HARENA_CHECK_OK(pool_->read(page, at % k_page_size, {out, part}));
        } else {
            std::fill_n(out, part, std::byte{0});
        }
        out += part;
        at += part;
    }
    return {};
}

}  // namespace harena
