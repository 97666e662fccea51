// SPDX-License-Identifier: Apache-2.0
//
// The programs' calls. Source of the results: Linux 7.3, kernel/bpf/arena.c, as written down in the contract.
#include <algorithm>
#include <cerrno>

#include "harena/arena/process_arena.hpp"
#include "harena/base/os/memory.hpp"

namespace harena {

PageIndex ProcessArena::page_of_low_bits(std::uint64_t address) const noexcept {
    // 32-bit arithmetic: a pointer below the arena wraps to a page beyond any arena that starts above it.
    const auto low = static_cast<std::uint32_t>(address);
    const auto start = static_cast<std::uint32_t>(user_vm_start().value());
    return PageIndex{low >= start ? (low - start) / k_page_size : k_max_pages.value()};
}

std::uint64_t ProcessArena::kfunc_alloc_pages_for(Payer payer, std::uint64_t address, std::uint32_t count,
                                                  std::int32_t node, std::uint64_t flags,
                                                  const std::atomic<bool>* cancel) {
    if (fork_guard_.owner_dead() || flags != 0 || count == 0 || count > pages().value()) return 0;
    if (node != -1 && !os::numa_node_online(node)) return 0;
    std::optional<PageIndex> at;
    if (address != 0) {  // all 64 bits: a pointer with 32 low zero bits asks for that very page
        if (!is_aligned(address, k_page_size)) return 0;
        at = page_of_low_bits(address);
        if (at->value() > pages().value() - count) return 0;
    }
    const auto allocated = allocator_->allocate(at, PageCount{count}, payer, cancel);
    return allocated ? reinterpret_cast<std::uint64_t>(address_of(*allocated)) : 0;
}

void ProcessArena::kfunc_free_pages(std::uint64_t address, std::uint32_t count, const std::atomic<bool>* cancel) {
    if (fork_guard_.owner_dead() || address == 0 || count == 0) return;
    const PageIndex begin = page_of_low_bits(align_down(address, k_page_size));
    if (begin.value() >= pages().value()) return;
    const PageIndex end = begin + std::min(PageCount{count}, PageIndex{} + pages() - begin);
    for (PageIndex at = begin; at < end;) {
        if (cancel != nullptr && cancel->load(std::memory_order_relaxed)) return;
        const PageIndex next = std::min(presence_->block_of(at).end, end);
        // A refused punch leaves pages allocated, and programs are not told.
        (void)allocator_->release({at, next});
        at = next;
    }
}

std::int32_t ProcessArena::kfunc_reserve_pages(std::uint64_t address, std::uint32_t count) {
    if (fork_guard_.owner_dead()) return -EOWNERDEAD;
    if (count == 0 || !is_aligned(address, k_page_size)) return 0;
    const PageIndex begin = page_of_low_bits(address);
    if (begin.value() > pages().value() || count > pages().value() - begin.value()) return -EINVAL;
    const auto reserved = allocator_->reserve(PageRange::of(begin, PageCount{count}));
    return reserved ? 0 : -reserved.error();
}

}  // namespace harena
