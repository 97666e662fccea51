// SPDX-License-Identifier: Apache-2.0
#include "harena/page/unmapped_cache.hpp"

#include <algorithm>
#include <cerrno>

namespace harena {

UnmappedCache::UnmappedCache(PageStore& store, const PageLedger& ledger, ThreadCaches& caches)
    : store_{store},
      ledger_{ledger},
      caches_{caches},
      zero_{store.pages(), k_zero_list},
      dirty_{store.pages(), k_dirty_list},
      free_in_(store.pages().size() / k_pageblock_pages),
      whole_{store.pages().size() / k_pageblock_pages} {}

Result<Page*> UnmappedCache::unmapped_pages_alloc(Order order, const AllocFlags& flags, const Site& where) {
    HARENA_CHECK_OK(fork_guard_.check("the unmapped cache"));
    if (order > k_max_order)
        return fail(EINVAL, "a block of order {}: the largest is {}", order.value(), k_max_order.value());
    if (store_.direct_map().hugetlb())
        return fail(ENOTSUP,
                    "unmapped pages are zeroed through the pool's file, and one on hugetlb pages cannot be written to");
    const PageCount pages{pages_of(order)};
    if (flags.account != nullptr) HARENA_CHECK_OK(flags.account->charge(pages));
    Page* page = nullptr;
    std::uint64_t departures = 0;
    {
        const std::lock_guard lock{mutex_};
        const auto block = take(order, flags.no_zero);
        if (!block) {
            if (flags.account != nullptr) flags.account->uncharge(pages);
            return pass_on(block.error());
        }
        allocated_ += pages.value();
        departures = departures_;
        page = &ledger_.hand_out(*block, flags.account, true, where);
    }
    // It has been free since it left the direct map: whoever had mapped it has given that up, but perhaps not unmapped.
    if (auto dropped = alias_holders_.drop(departures); !dropped) {
        (void)unmapped_pages_free(page, where);
        return pass_on(dropped.error());
    }
    return page;
}

Result<void> UnmappedCache::unmapped_pages_free(Page* page, const Site& where) {
    HARENA_CHECK_OK(fork_guard_.check("the unmapped cache"));
    const auto pfn = store_.pages().find(page);
    if (!pfn) return std::unexpected{PageLedger::not_a_page(page, where)};
    const Order order = page->order();
    std::uint64_t was = 0;
    if (!ledger_.try_take_back(*page, order, was, where, true)) {
        const PageWord found = PageWord::from(was);
        if (found.state == BlockState::allocated && !found.unmapped)
            return fail(EINVAL, "page {} is in the direct map: free it with free_pages", pfn->value());
        return std::unexpected{ledger_.refusal(*page, order, found, where)};
    }
    if (page->account() != nullptr) page->account()->uncharge(PageCount{pages_of(order)});
    (void)adopt({.first = *pfn, .order = order}, true);  // what is unmapped already is always taken
    return {};
}

bool UnmappedCache::adopt(const FreeBlock& block, bool unmapped) {
    const std::lock_guard lock{mutex_};
    if (unmapped) {
        allocated_ -= pages_of(block.order);
    } else {
        // A part may have returned to the direct map since the caller looked.
        const bool leaves = store_.pageblock(block.first).follows.load(std::memory_order_relaxed);
        if (!leaves || !store_.direct_map().unmap(block.first, block.order)) {
            statistics_.unmap_failures += leaves ? 1U : 0U;
            return false;
        }
        ++statistics_.cached[block.order.value()];
        count_unmapped(block, true);
        ++departures_;
    }
    give({.first = block.first, .order = block.order, .zero = false});
    return true;
}

Result<FreeBlock> UnmappedCache::take(Order order, bool no_zero) {
    // Each round has more free pages than the one before, or fewer that are not zero, or returns.
    for (;;) {
        if (no_zero)
            if (const auto block = dirty_.take(order)) return counted_out(*block);
        if (const auto block = zero_.take(order)) return counted_out(*block);
        HARENA_TRY(const bool zeroed, zero_some(order));
        if (!zeroed) HARENA_CHECK_OK(refill(order, {.preferred = store_.current_node()}));
    }
}

Result<bool> UnmappedCache::zero_some(Order order) {
    // The largest block: one write for many pages. If it is smaller than wanted, all of them together may make one.
    auto block = dirty_.take_largest();
    if (!block) return false;
    for (; block; block = block->order < order ? dirty_.take_largest() : std::nullopt)
        HARENA_CHECK_OK(zero_dirty(*block));
    return true;
}

Result<void> UnmappedCache::zero_dirty(const FreeBlock& block) {
    const auto zeroed = store_.direct_map().zero(block.first, pages_of(block.order));
    if (!zeroed) ++statistics_.zero_failures;
    (zeroed ? zero_ : dirty_).give({.first = block.first, .order = block.order, .zero = zeroed.has_value()});
    return zeroed;
}

Result<void> UnmappedCache::flush() {
    HARENA_CHECK_OK(fork_guard_.check("the unmapped cache"));
    const std::lock_guard lock{mutex_};
    while (const auto block = dirty_.take_largest()) HARENA_CHECK_OK(zero_dirty(*block));
    return {};
}

Result<void> UnmappedCache::refill(Order order, NodeChoice node) {
    auto block = take_from_store(order, node);
    if (!block || block->order < k_pageblock_order) {
        // Perhaps the pages in threads' caches make a whole one.
        if (block) store_.give(*block);
        const auto drained = caches_.drain();
        block = take_from_store(order, node);
    }
    if (!block) return pass_on(block.error());
    HARENA_CHECK_OK(unmap_and_add(*block));
    if (block->order < k_pageblock_order) {
        store_.pageblock(block->first).follows.store(true, std::memory_order_relaxed);
        follow(pageblock_begin(block->first));
    }
    return {};
}

Result<FreeBlock> UnmappedCache::take_from_store(Order order, NodeChoice node) {
    if (order <= k_pageblock_order && next_ && next_->value() < store_.pages().size())
        if (const auto block = store_.take_at(*next_, k_pageblock_order)) return *block;
    auto whole = store_.take(std::max(order, k_pageblock_order), node);
    if (whole) return whole;
    if (const auto part = store_.take_largest(order)) return *part;
    return whole;
}

Result<void> UnmappedCache::unmap_and_add(const FreeBlock& block) {
    if (auto gone = store_.direct_map().unmap(block.first, block.order); !gone) {
        ++statistics_.unmap_failures;
        store_.give(block);
        return gone;
    }
    ++statistics_.cached[block.order.value()];
    count_unmapped(block, true);
    ++departures_;
    if (block.order >= k_pageblock_order) next_ = block.first + pages_of(block.order);
    // What is known to be zero could have been written to as long as it had an address.
    give({.first = block.first, .order = block.order, .zero = false});
    return {};
}

void UnmappedCache::follow(Pfn pageblock) {
    for (std::uint32_t i = 0; i < k_pageblock_pages;) {
        const Pfn pfn = pageblock + i;
        const PageWord word = store_.pages()[pfn].load();
        const bool in_store = word.state == BlockState::free && word.list < store_.nodes();
        if (in_store)
            if (const auto block = store_.take_at(pfn, word.order))
                if (!unmap_and_add(*block)) return;  // counted; the others follow when they are freed
        i += in_store ? pages_of(word.order) : 1;
    }
}

Result<PageCount> UnmappedCache::shrink(PageCount wanted) { return release_some(wanted, Contents::zeroed); }

Result<PageCount> UnmappedCache::release_some(PageCount wanted, Contents contents) {
    HARENA_CHECK_OK(fork_guard_.check("the unmapped cache"));
    const std::lock_guard lock{mutex_};
    std::uint64_t done = 0;
    Result<void> released;
    for (std::size_t b = whole_.find_next_set(0); done < wanted.value() && b < whole_.size();
         b = whole_.find_next_set(b + 1)) {
        released = release_pageblock(Pfn{static_cast<std::uint32_t>(b * k_pageblock_pages)}, contents);
        if (!released) break;
        done += k_pageblock_pages;
    }
    while (released && done < wanted.value()) {
        const std::size_t zero = largest(zero_);
        const std::size_t dirty = largest(dirty_);
        if (zero == k_orders && dirty == k_orders) break;
        FreeBlocks& from = dirty == k_orders || (zero != k_orders && zero >= dirty) ? zero_ : dirty_;
        const FreeBlock block = *from.take_largest();
        released = release(block, Contents::zeroed);
        if (released) done += pages_of(block.order);
    }
    if (!released && done == 0) return pass_on(released.error());
    return PageCount{done};
}

Result<void> UnmappedCache::release_pageblock(Pfn first, Contents contents) {
    // In one piece in one of the lists, or in pieces that become one when all of them are zero.
    if (const auto block = zero_.take_at(first, k_pageblock_order)) return release(*block, contents);
    if (const auto block = dirty_.take_at(first, k_pageblock_order)) return release(*block, contents);
    for (std::uint32_t i = 0; i < k_pageblock_pages;) {
        const auto dirty = dirty_.at(first + i);
        const auto zero = zero_.at(first + i);
        i += pages_of(dirty ? dirty->order : zero ? zero->order : Order{});
        if (dirty) HARENA_CHECK_OK(zero_dirty(*dirty_.take_at(dirty->first, dirty->order)));
    }
    return release(*zero_.take_at(first, k_pageblock_order), contents);
}

Result<void> UnmappedCache::release(const FreeBlock& block, Contents contents) {
    if (!block.zero)
        if (auto zeroed = contents == Contents::dropped ? store_.direct_map().drop(block.first, block.order)
                                                        : store_.direct_map().zero(block.first, pages_of(block.order));
            !zeroed) {
            ++statistics_.zero_failures;
            dirty_.give(block);
            return zeroed;
        }
    const FreeBlock zero{.first = block.first, .order = block.order, .zero = true};
    if (auto restored = store_.direct_map().restore(block.first, block.order); !restored) {
        ++statistics_.restore_failures;
        zero_.give(zero);
        return restored;
    }
    ++statistics_.released[block.order.value()];
    count_free(block, false);
    count_unmapped(block, false);
    store_.give(zero);
    return {};
}

void UnmappedCache::give(const FreeBlock& block) noexcept {
    count_free(block, true);
    (block.zero ? zero_ : dirty_).give(block);
}

FreeBlock UnmappedCache::counted_out(const FreeBlock& block) noexcept {
    count_free(block, false);
    return block;
}

std::size_t UnmappedCache::largest(const FreeBlocks& blocks) noexcept {
    for (std::size_t k = k_orders; k-- > 0;)
        if (blocks.blocks()[k] != 0) return k;
    return k_orders;
}

template <typename Visit>
void UnmappedCache::for_each_pageblock(const FreeBlock& block, Visit&& visit) noexcept {
    const std::uint32_t pages = std::min(pages_of(block.order), k_pageblock_pages);
    for (std::uint32_t i = 0; i < pages_of(block.order); i += pages) visit(pageblock_of(block.first + i), pages);
}

void UnmappedCache::count_free(const FreeBlock& block, bool added) noexcept {
    for_each_pageblock(block, [&](std::uint32_t pageblock, std::uint32_t pages) {
        std::uint16_t& count = free_in_[pageblock];
        count = static_cast<std::uint16_t>(added ? count + pages : count - pages);
        count == k_pageblock_pages ? whole_.set(pageblock) : whole_.clear(pageblock);
    });
}

void UnmappedCache::count_unmapped(const FreeBlock& block, bool added) noexcept {
    for_each_pageblock(block, [&](std::uint32_t number, std::uint32_t pages) {
        Pageblock& pageblock = store_.pageblock(Pfn{number * k_pageblock_pages});
        const std::uint32_t before = pageblock.unmapped.load(std::memory_order_relaxed);
        const std::uint32_t after = added ? before + pages : before - pages;
        pageblock.unmapped.store(static_cast<std::uint16_t>(after), std::memory_order_relaxed);
        if (!added || after == k_pageblock_pages) pageblock.follows.store(false, std::memory_order_relaxed);
        const auto in_parts = [](std::uint32_t out) { return out != 0 && out != k_pageblock_pages; };
        if (!in_parts(before) && in_parts(after)) store_.direct_map().count_split();
        if (in_parts(before) && !in_parts(after)) store_.direct_map().count_merge();
    });
}

UnmappedStatistics UnmappedCache::statistics() const {
    if (fork_guard_.owner_dead()) return {};
    const std::lock_guard lock{mutex_};
    UnmappedStatistics out = statistics_;
    out.free = PageCount{zero_.pages() + dirty_.pages()};
    out.allocated = PageCount{allocated_};
    out.dirty = PageCount{dirty_.pages()};
    for (std::size_t k = 0; k < k_orders; ++k) out.free_blocks[k] = zero_.blocks()[k] + dirty_.blocks()[k];
    return out;
}

std::string to_text(const UnmappedStatistics& statistics) {
    std::string text;
    const auto add = [&](std::string_view name, const auto& value_of) {
        text += fmt::format("{:<10}", name);
        for (std::size_t k = 0; k < k_orders; ++k) text += fmt::format("{:>9}", value_of(k));
        text += '\n';
    };
    add("Order:", [](std::size_t k) { return k; });
    add("Free:", [&](std::size_t k) { return statistics.free_blocks[k]; });
    add("Cached:", [&](std::size_t k) { return statistics.cached[k]; });
    add("Released:", [&](std::size_t k) { return statistics.released[k]; });
    text += fmt::format("Pages:    {} free ({} to be zeroed), {} allocated\n", statistics.free.value(),
                        statistics.dirty.value(), statistics.allocated.value());
    return text;
}

}  // namespace harena
