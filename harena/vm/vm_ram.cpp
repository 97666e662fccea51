// SPDX-License-Identifier: Apache-2.0
// Mappings for a moment. A block of addresses is handed out from its begin to its end, each page once; when all that
// was mapped in it is back, the whole block is unmapped in one step and begins anew.
#include <algorithm>
#include <array>
#include <cerrno>
#include <memory>
#include <new>
#include <utility>

#include "harena/vm/vm_space.hpp"

namespace harena {

namespace {
constexpr std::size_t k_max_pages_at_once = 256;
}

Result<void*> VmSpace::vm_map_ram(std::span<Page* const> pages) {
    HARENA_CHECK_OK(fork_guard_.check("the address space"));
    if (pages.empty()) return fail(EINVAL, "no pages to map");
    if (pages.size() > k_max_pages_at_once)
        return fail(E2BIG, "{} pages at once: {} at most; use vmap", pages.size(), k_max_pages_at_once);
    HARENA_TRY(const bool unmapped, check_pages(pages, EINVAL));
    const std::lock_guard lock{mutex_};
    std::array<std::uint32_t, k_max_pages_at_once> numbers{};
    const auto wanted = std::span{numbers}.first(pages.size());
    std::ranges::transform(pages, wanted.begin(), [&](const Page* page) { return pool_->pfn(page).value() + 1; });
    // All its ends: those that it shares with its neighbours are counted twice until the block begins anew.
    const std::uint64_t edges = edges_of(wanted, 0, wanted.size());
    HARENA_CHECK_OK(make_room(edges));
    HARENA_TRY(RamBlock* const block, ram_block(pages.size()));
    VmArea& area = *block->area;
    area.has_unmapped_ |= unmapped;
    const auto table = std::span{area.table_}.subspan(block->next, pages.size());
    std::ranges::copy(wanted, table.begin());
    if (auto mapped = map_table(area, block->next, pages.size(), VmProtection::read_write, true); !mapped) {
        std::ranges::fill(table, 0U);
        if (area.stale_) block->add_stale(block->next, pages.size());
        return pass_on(mapped.error());
    }
    area.edges_ += edges;
    edges_ += edges;
    std::byte* const at = area.begin_ + block->next * k_page_size;
    block->lengths[block->next] = static_cast<std::uint16_t>(pages.size());
    block->next += pages.size();
    ++block->live;
    return at;
}

Result<VmSpace::RamBlock*> VmSpace::ram_block(std::uint64_t pages) {
    if (ram_.empty() || ram_.back()->next + pages > k_ram_pages) {
        // One that is back, or a new one.
        const auto idle = std::ranges::find_if(ram_, [](const auto& block) { return block->live == 0; });
        if (idle != ram_.end()) {
            HARENA_CHECK_OK(reset(**idle));
            std::swap(*idle, ram_.back());
        } else {
            HARENA_CHECK_OK(add_ram_block());
        }
    }
    return ram_.back().get();
}

Result<void> VmSpace::add_ram_block() {
    try {
        auto block = std::make_unique<RamBlock>();
        ram_.reserve(ram_.size() + 1);
        HARENA_TRY(block->area, make_area(k_ram_pages, VmKind::ram, {.name = "vm_map_ram"}));
        ram_.push_back(std::move(block));
    } catch (const std::bad_alloc&) {
        return fail(ENOMEM, "no memory for a block of mappings");
    }
    return {};
}

Result<void> VmSpace::reset(RamBlock& block) {
    HARENA_CHECK_OK(map_nothing(page_of(block.area->begin_), k_ram_pages));
    block.next = 0;
    block.stale_begin = k_ram_pages;
    block.stale_end = 0;
    block.area->has_unmapped_ = block.area->stale_ = false;
    remove_edges(*block.area, block.area->edges_);
    return {};
}

Result<void> VmSpace::unmap_stale(RamBlock& block) {
    if (block.stale_begin >= block.stale_end) return {};
    if (block.live == 0) return reset(block);
    HARENA_CHECK_OK(unmap_gaps(*block.area, block.stale_begin, block.stale_end));
    block.stale_begin = k_ram_pages;
    block.stale_end = 0;
    return {};
}

Result<void> VmSpace::purge_ram() {
    Result<void> result;
    std::erase_if(ram_, [&](const auto& block) {
        auto unmapped = unmap_stale(*block);
        if (unmapped && block->live == 0) {
            take_leave(*block->area, false);
            return true;
        }
        if (!unmapped) result = std::move(unmapped);
        return false;
    });
    return result;
}

Result<void> VmSpace::vm_unmap_ram(const void* address, std::size_t count) {
    HARENA_CHECK_OK(fork_guard_.check("the address space"));
    const std::lock_guard lock{mutex_};
    const auto found = std::ranges::find_if(ram_, [&](const auto& block) {
        const auto offset = static_cast<std::uint64_t>(static_cast<const std::byte*>(address) - block->area->begin_);
        return offset < k_ram_pages * k_page_size && offset % k_page_size == 0 &&
               block->lengths[offset / k_page_size] == count && count != 0;
    });
    if (found == ram_.end()) return fail(ENOENT, "no vm_map_ram of {} pages is at {}", count, fmt::ptr(address));
    RamBlock& block = **found;
    const std::uint64_t first = page_of(address).value() - page_of(block.area->begin_).value();
    if (block.area->has_unmapped_) {
        // Pages without another address have none at all from now on.
        HARENA_CHECK_OK(map_nothing(page_of(address), count));
    } else {
        block.add_stale(first, count);
    }
    (*records_)[block.area->number_].pages.fetch_sub(count, std::memory_order_relaxed);
    block.lengths[first] = 0;
    std::fill_n(block.area->table_.begin() + static_cast<std::ptrdiff_t>(first), count, 0U);
    --block.live;
    // All back and none left: unmapped together; if that fails, before the block is used again. A block in use goes on,
    // for what comes next.
    if (block.live == 0 && block.next == k_ram_pages) (void)reset(block);
    return {};
}

}  // namespace harena
