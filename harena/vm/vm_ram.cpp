// SPDX-License-Identifier: Apache-2.0
// Mappings for a moment. A block of addresses is handed out from its begin to its end, each page once; when all that
// was mapped in it is back, the whole block is unmapped in one step and begins anew.
#include <algorithm>
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
    const std::lock_guard lock{mutex_};
    HARENA_CHECK_OK(check_pages(pages, EINVAL));
    HARENA_TRY(RamBlock* const block, ram_block(pages.size()));
    VmArea& area = *block->area;
    for (std::size_t i = 0; i < pages.size(); ++i) {
        area.table_[block->next + i] = pool_->pfn(pages[i]).value() + 1;
        area.has_unmapped_ |= pool_->block_of(pages[i])->unmapped();
    }
    if (auto mapped = map_table(area, block->next, pages.size(), VmProtection::read_write, true); !mapped) {
        std::fill_n(area.table_.begin() + static_cast<std::ptrdiff_t>(block->next), pages.size(), 0U);
        return pass_on(mapped.error());
    }
    std::byte* const at = area.begin_ + block->next * k_page_size;
    block->lengths[block->next] = static_cast<std::uint16_t>(pages.size());
    block->next += pages.size();
    ++block->live;
    return at;
}

Result<VmSpace::RamBlock*> VmSpace::ram_block(std::uint64_t pages) {
    if (!ram_.empty() && ram_.back()->next + pages <= k_ram_pages) return ram_.back().get();
    // One that is back, or a new one.
    for (auto& block : ram_)
        if (block->live == 0) {
            HARENA_CHECK_OK(reset(*block));
            std::swap(block, ram_.back());
            return ram_.back().get();
        }
    try {
        auto block = std::make_unique<RamBlock>();
        ram_.reserve(ram_.size() + 1);
        HARENA_TRY(block->area, make_area(k_ram_pages, VmKind::ram, {.name = "vm_map_ram"}));
        block->area->table_.assign(k_ram_pages, 0);
        ram_.push_back(std::move(block));
    } catch (const std::bad_alloc&) {
        return fail(ENOMEM, "no memory for a block of mappings");
    }
    return ram_.back().get();
}

Result<void> VmSpace::reset(RamBlock& block) {
    HARENA_CHECK_OK(map_nothing(page_of(block.area->begin_), k_ram_pages));
    block.next = 0;
    block.area->has_unmapped_ = false;
    (*records_)[block.area->number_].pages.store(0, std::memory_order_relaxed);
    return {};
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
    // Pages without another address have none at all from now on.
    if (block.area->has_unmapped_) {
        HARENA_CHECK_OK(map_nothing(page_of(address), count));
        (*records_)[block.area->number_].pages.fetch_sub(count, std::memory_order_relaxed);
    }
    block.lengths[first] = 0;
    std::fill_n(block.area->table_.begin() + static_cast<std::ptrdiff_t>(first), count, 0U);
    --block.live;
    // All back and none left: unmapped together. A block in use goes on, for what comes next.
    if (block.live == 0 && block.next == k_ram_pages) return reset(block);
    return {};
}

}  // namespace harena
