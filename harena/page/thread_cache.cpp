// SPDX-License-Identifier: Apache-2.0
#include "harena/page/thread_cache.hpp"

#include <algorithm>
#include <memory>
#include <new>

#include "harena/base/fork.hpp"

namespace harena {

constinit thread_local ThreadCaches::Used ThreadCaches::last_used_;

void ThreadCache::refill(PageStore& store, NodeChoice node) noexcept {
    std::array<FreeBlock, k_batch> taken;
    const std::size_t count = store.take_single_pages(taken, node);
    for (std::size_t i = count; i > 0; --i) push(taken[i - 1]);  // the lowest address comes out first
}

void ThreadCache::drain(PageStore& store, std::size_t count) noexcept {
    std::array<FreeBlock, k_capacity> given;
    for (std::size_t i = 0; i < count; ++i) given[i] = pages_[i].block();
    store.give(std::span{given}.first(count));
    const auto begin = pages_.begin();
    std::copy(begin + static_cast<std::ptrdiff_t>(count), begin + static_cast<std::ptrdiff_t>(this->count()), begin);
    set_count(this->count() - count);
}

Result<void> ThreadCaches::prepare() {
    OwnerLock::prepare();
    return ThreadOwned::prepare();
}

ThreadCaches::ThreadCaches(PageStore& store) : prepared_{prepare().has_value()}, store_{store} {}

ThreadCaches::~ThreadCaches() {
    end();
    if (fork_guard_.owner_dead()) return;
    for (const auto& cache : caches_) cache->drain(store_, cache->count());  // no owner is in it
}

ThreadCache* ThreadCaches::mine_if_any() const noexcept { return static_cast<ThreadCache*>(part_of_this_thread()); }

ThreadCache* ThreadCaches::find_mine() noexcept {
    if (!prepared_ || fork_guard_.owner_dead()) return nullptr;
    ThreadCache* cache = mine_if_any();
    if (cache == nullptr) {
        try {
            cache = make_mine();
        } catch (const std::bad_alloc&) {
            return nullptr;
        }
    }
    last_used_ = {id(), cache};
    return cache;
}

ThreadCache* ThreadCaches::make_mine() {
    auto made = std::make_unique<ThreadCache>();
    ThreadCache* const cache = made.get();
    set_part_of_this_thread(cache, [&] {
        const std::lock_guard lock{mutex_};
        caches_.push_back(std::move(made));
    });
    return cache;
}

void ThreadCaches::retire(void* part) noexcept {
    last_used_ = {};
    auto* const cache = static_cast<ThreadCache*>(part);
    const std::lock_guard lock{mutex_};
    cache->drain(store_, cache->count());  // the owner is here, and all others wait for the mutex
    std::erase_if(caches_, [cache](const auto& one) { return one.get() == cache; });
}

ThreadCaches::Drained::Drained(ThreadCaches& caches) noexcept : caches_{caches}, lock_{caches.mutex_} {
    const ThreadCache* const own = caches.mine_if_any();
    std::uint64_t moved = 0;
    for (const auto& cache : caches.caches_) cache->owner_lock().revoke();
    const bool all = OwnerLock::barrier();
    for (const auto& cache : caches.caches_) {
        // Nobody is in this thread's.
        if (!all && cache.get() != own) continue;
        if (all) cache->owner_lock().wait_for_owner();
        moved += cache->count();
        cache->drain(caches.store_, cache->count());
    }
    pages_ = PageCount{moved};
}

ThreadCaches::Drained::~Drained() {
    for (const auto& cache : caches_.caches_) cache->owner_lock().restore();
}

PageCount ThreadCaches::pages() const {
    std::uint64_t sum = 0;
    const std::lock_guard lock{mutex_};
    for (const auto& cache : caches_) sum += cache->count();
    return PageCount{sum};
}

}  // namespace harena
