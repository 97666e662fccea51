// SPDX-License-Identifier: Apache-2.0
#include "harena/page/page_pool.hpp"

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <limits>
#include <new>
#include <utility>

#include "harena/base/assert.hpp"
#include "harena/base/map_error.hpp"
#include "harena/base/os/memory.hpp"
#include "harena/page/unmapped_cache.hpp"

namespace harena {

Result<std::unique_ptr<PagePool>> PagePool::create(const PagePoolOptions& options) {
    if (options.capacity.value() > k_max_pages)
        return fail(EINVAL, "a pool of {} pages: it takes up to {}", options.capacity.value(), k_max_pages);
    HARENA_CHECK_OK(ThreadCaches::prepare());
    const std::uint64_t capacity = align_up(options.capacity.value(), k_pageblock_pages);
    try {
        HARENA_TRY(auto store, PageStore::create({.direct_map = {.capacity = PageCount{capacity},
                                                                 .hugetlb = options.hugetlb,
                                                                 .collapse = options.collapse,
                                                                 .max_vmas = options.max_vmas},
                                                  .nodes = options.nodes ? *options.nodes : os::numa_nodes()}));
        HARENA_TRY(PageLedger ledger, PageLedger::create(store->pages()));
        return std::unique_ptr<PagePool>{new PagePool{std::move(store), std::move(ledger)}};
    } catch (const std::bad_alloc&) {
        return fail(ENOMEM, "no memory for the description of a pool of {} pages", capacity);
    }
}

PagePool::PagePool(std::unique_ptr<PageStore> store, PageLedger ledger)
    : store_{std::move(store)},
      ledger_{std::move(ledger)},
      caches_{*store_},
      unmapped_{std::make_unique<UnmappedCache>(*store_, ledger_, caches_)} {}

PagePool::~PagePool() {
    if (!fork_guard_.owner_dead())
        precondition(statistics().allocated == PageCount{}, "a pool ends while pages of it are allocated");
}

NodeChoice PagePool::node_for(const AllocFlags& flags) const noexcept {
    return {.preferred = store_->current_node(), .strict = flags.this_node};
}

inline ThreadCache::Entry PagePool::pop_cached(const AllocFlags& flags) noexcept {
    ThreadCache* const cache = caches_.mine();
    if (cache == nullptr || (flags.this_node && store_->nodes() > 1) || !cache->owner_lock().try_lock()) [[unlikely]]
        return {};
    if (cache->empty()) [[unlikely]]
        cache->refill(*store_, node_for(flags));
    const ThreadCache::Entry page = cache->pop();
    cache->owner_lock().unlock();
    return page;
}

inline bool PagePool::push_cached(Pfn page) noexcept {
    ThreadCache* const cache = caches_.mine();
    if (cache == nullptr || !cache->owner_lock().try_lock()) [[unlikely]]
        return false;
    // A page of another node goes home: the next user of this cache wants one of its own.
    const bool here = store_->nodes() == 1 || node(page) == node_for({}).preferred;
    if (here) {
        if (cache->full()) [[unlikely]]
            cache->drain(*store_, ThreadCache::k_batch);
        cache->push({.first = page});
    }
    cache->owner_lock().unlock();
    return here;
}

Result<Page*> PagePool::alloc_pages(Order order, const AllocFlags& flags, const Site& where) {
    if (order > k_max_order) [[unlikely]]
        return fail(EINVAL, "a block of order {}: the largest is {}", order.value(), k_max_order.value());
    if (flags.account != nullptr) HARENA_CHECK_OK(flags.account->charge(PageCount{pages_of(order)}));
    if (order == Order{}) [[likely]]
        if (const ThreadCache::Entry page = pop_cached(flags)) [[likely]] {
            if (!flags.no_zero && !page.zero()) std::memset(store_->direct_map().address(page.pfn()), 0, k_page_size);
            return &ledger_.hand_out(page.block(), flags.account, false, where);
        }
    return alloc_uncached(order, flags, where);
}

Result<Page*> PagePool::alloc_uncached(Order order, const AllocFlags& flags, const Site& where) {
    auto block = take(order, flags);
    if (!block) {
        if (flags.account != nullptr) flags.account->uncharge(PageCount{pages_of(order)});
        return pass_on(std::move(block.error()));
    }
    if (!flags.no_zero) zero(*block);
    return &ledger_.hand_out(*block, flags.account, false, where);
}

Result<FreeBlock> PagePool::take(Order order, const AllocFlags& flags) {
    HARENA_CHECK_OK(fork_guard_.check("the page pool"));
    const NodeChoice node = node_for(flags);
    auto block = store_->take(order, node);
    // What comes back from the unmapped cache need not be the right buddies: again, but not for ever.
    constexpr int k_shrinks = 4;
    for (int shrinks = 0; !block; ++shrinks) {
        {
            const auto drained = caches_.drain();  // nobody hoards what comes back before this thread has its own
            block = store_->take(order, node);
        }
        if (block || shrinks == k_shrinks) break;
        const auto shrunk = unmapped_->shrink(PageCount{pages_of(order)});
        if (!shrunk || *shrunk == PageCount{}) break;
    }
    return block;
}

void PagePool::zero(const FreeBlock& block) const noexcept {
    if (!block.zero) std::memset(store_->direct_map().address(block.first), 0, bytes_of(block.order));
}

Result<void> PagePool::free_pages(Page* page, Order order, const Site& where) {
    const auto found = store_->pages().find(page);
    if (!found) [[unlikely]]
        return std::unexpected{PageLedger::not_a_page(page, where)};
    if (fork_guard_.owner_dead()) [[unlikely]]
        return fork_guard_.check("the page pool");
    std::uint64_t was = 0;
    if (!ledger_.try_take_back(*page, order, was, where)) [[unlikely]]
        return std::unexpected{ledger_.refusal(*page, order, PageWord::from(was), where)};
    if (page->account() != nullptr) page->account()->uncharge(PageCount{pages_of(order)});
    const FreeBlock block{.first = *found, .order = order};
    const bool unmapped = (was & PageWord::k_unmapped_bit) != 0;
    if (unmapped || store_->pageblock(block.first).follows.load(std::memory_order_relaxed)) [[unlikely]]
        if (unmapped_->adopt(block, unmapped)) return {};
    if (order != Order{} || !push_cached(block.first)) store_->give(block);
    return {};
}

Result<void> PagePool::alloc_bulk(std::span<Page*> pages, const AllocFlags& flags, const Site& where) {
    HARENA_CHECK_OK(fork_guard_.check("the page pool"));
    if (flags.account != nullptr) HARENA_CHECK_OK(flags.account->charge(PageCount{pages.size()}));
    std::array<FreeBlock, 256> taken;
    for (std::size_t done = 0; done < pages.size();) {
        const std::span wanted = std::span{taken}.first(std::min(taken.size(), pages.size() - done));
        std::size_t count = store_->take_single_pages(wanted, node_for(flags));
        if (count == 0) {  // grows, for the next round
            auto one = take(Order{}, flags);
            if (!one) {
                // The account is given back what was not handed out; what was, by the free.
                if (flags.account != nullptr) flags.account->uncharge(PageCount{pages.size() - done});
                (void)free_bulk(pages.first(done), where);
                return pass_on(std::move(one.error()));
            }
            taken[count++] = *one;
        }
        for (const FreeBlock& block : wanted.first(count)) {
            if (!flags.no_zero) zero(block);
            pages[done++] = &ledger_.hand_out(block, flags.account, false, where);
        }
    }
    return {};
}

Result<void> PagePool::free_bulk(std::span<Page* const> pages, const Site& where) {
    Result<void> first_error;
    for (Page* const page : pages)
        if (auto freed = free_pages(page, Order{}, where); !freed && first_error) first_error = std::move(freed);
    return first_error;
}

Result<void> PagePool::get_page(Page* page, const Site& where) {
    HARENA_CHECK_OK(fork_guard_.check("the page pool"));
    if (!store_->pages().find(page)) return std::unexpected{PageLedger::not_a_page(page, where)};
    std::uint64_t bits = page->load_bits();
    for (;;) {
        PageWord word = PageWord::from(bits);
        if (word.state != BlockState::allocated)
            return fail(EINVAL, "page {} is not allocated: it takes no reference", pfn(page).value());
        if (word.references == std::numeric_limits<std::uint32_t>::max())
            return fail(EOVERFLOW, "page {} has {} references", pfn(page).value(), word.references);
        ++word.references;
        if (page->exchange(bits, word)) return {};
    }
}

Result<void> PagePool::put_page(Page* page, const Site& where) {
    HARENA_CHECK_OK(fork_guard_.check("the page pool"));
    if (!store_->pages().find(page)) return std::unexpected{PageLedger::not_a_page(page, where)};
    std::uint64_t bits = page->load_bits();
    for (;;) {
        PageWord word = PageWord::from(bits);
        if (word.state != BlockState::allocated || word.references <= 1) return free_pages(page, word.order, where);
        --word.references;
        if (page->exchange(bits, word)) return {};
    }
}

Page* PagePool::page_at(const void* address) const noexcept {
    const auto offset =
        reinterpret_cast<std::uintptr_t>(address) - reinterpret_cast<std::uintptr_t>(store_->direct_map().base());
    if (offset >= harena::bytes_of(store_->capacity())) return nullptr;
    return page(Pfn{static_cast<std::uint32_t>(offset / k_page_size)});
}

const Page* PagePool::block_of(const Page* page) const noexcept {
    const auto pfn = store_->pages().find(page);
    if (!pfn) return nullptr;
    for (std::uint8_t k = 0; k <= k_max_order.value(); ++k) {
        const Page& first = store_->pages()[Pfn{pfn->value() & ~(pages_of(Order{k}) - 1)}];
        const PageWord word = first.load();
        if (word.state == BlockState::allocated && word.order.value() >= k) return &first;
    }
    return nullptr;
}

Result<void> PagePool::write(const Page* block, std::uint64_t offset, std::span<const std::byte> bytes) {
    HARENA_CHECK_OK(check_file_size(byte_offset(pfn(block)) + offset + bytes.size(), "a write to the pool's file"));
    if (offset > bytes_of(block->order()) || bytes.size() > bytes_of(block->order()) - offset)
        return fail(ERANGE, "{} bytes at {} of a block of {}", bytes.size(), offset, bytes_of(block->order()));
    for (std::size_t done = 0; done < bytes.size();) {
        const auto written =
            os::pwrite(fd(), bytes.data() + done, bytes.size() - done, byte_offset(pfn(block)) + offset + done);
        if (!written && written.error().code == EINTR) continue;
        if (!written) return os::fail_with(written.error(), "cannot write to a page through the pool's file");
        done += *written;
    }
    return {};
}

Result<void> PagePool::read(const Page* page, std::uint64_t offset, std::span<std::byte> bytes) const {
    for (std::size_t done = 0; done < bytes.size();) {
        const auto got =
            os::pread(fd(), bytes.data() + done, bytes.size() - done, byte_offset(pfn(page)) + offset + done);
        if (!got && got.error().code == EINTR) continue;
        if (!got) return os::fail_with(got.error(), "cannot read a page through the pool's file");
        if (*got == 0) return fail(ERANGE, "the pool's file ends at page {}", pfn(page).value());
        done += *got;
    }
    return {};
}

Result<PageCount> PagePool::reclaim(PageCount wanted) {
    HARENA_CHECK_OK(fork_guard_.check("the page pool"));
    (void)caches_.drain();
    return unmapped_->shrink(wanted);
}

Result<PageCount> PagePool::trim(PageCount wanted) {
    HARENA_TRY(const PageCount given, reclaim(PageCount{}));
    (void)given;
    auto done = store_->give_back(wanted);
    if (!done || *done >= wanted) return done;
    const PageCount missing{wanted.value() - done->value()};
    using Contents = UnmappedCache::Contents;
    if (const auto more = unmapped_->release_some(missing, Contents::dropped); !more || *more == PageCount{})
        return done;
    const auto rest = store_->give_back(missing);
    return PageCount{done->value() + (rest ? rest->value() : 0)};
}

PageCount PagePool::count() const {
    if (fork_guard_.owner_dead()) return {};
    return PageCount{store_->free_pages().value() + caches_.pages().value() + unmapped_->count().value()};
}

PagePoolStatistics PagePool::statistics() {
    if (fork_guard_.owner_dead()) return {};  // its locks may be held by threads that are not here
    const UnmappedStatistics unmapped = unmapped_->statistics();
    PagePoolStatistics out{.capacity = store_->capacity(),
                           .grown = store_->grown(),
                           .free = store_->free_pages(),
                           .cached = caches_.pages(),
                           .unmapped_free = unmapped.free,
                           .allocated = {},
                           .free_blocks = store_->free_blocks()};
    const std::uint64_t not_allocated = out.free.value() + out.cached.value() + out.unmapped_free.value();
    out.allocated = PageCount{out.grown.value() - std::min(out.grown.value(), not_allocated)};
    return out;
}

}  // namespace harena
