// SPDX-License-Identifier: Apache-2.0
#include "harena/secret/secret_cache.hpp"

#include <algorithm>
#include <new>

namespace harena {

constinit thread_local SecretCaches::Used SecretCaches::last_used_;

Result<std::size_t> SecretCache::refill(SlabStore& store, ClassIndex index) {
    Stack& stack = stacks_[index];
    const std::span room{stack.slots.data(), k_size_classes[index].kept_by_threads() / 2};
    HARENA_TRY(const std::size_t taken, store.take_slots(index, room));
    std::reverse(room.begin(), room.begin() + static_cast<std::ptrdiff_t>(taken));  // the lowest comes out first
    stack.count = static_cast<std::uint32_t>(taken);
    return taken;
}

void SecretCache::spill(SlabStore& store, ClassIndex index) noexcept {
    Stack& stack = stacks_[index];
    const std::uint32_t given = std::min(stack.count, k_size_classes[index].kept_by_threads() / 2);
    store.give_slots(std::span{stack.slots.data(), given});
    std::copy(stack.slots.data() + given, stack.slots.data() + stack.count, stack.slots.data());
    stack.count -= given;
}

void SecretCache::drain(SlabStore& store) noexcept {
    for (Stack& stack : stacks_) {
        store.give_slots(std::span{stack.slots.data(), stack.count});
        stack.count = 0;
    }
}

Result<void> SecretCaches::prepare() {
    OwnerLock::prepare();
    return ThreadOwned::prepare();
}

SecretCache* SecretCaches::find_mine() noexcept {
    if (fork_guard_.owner_dead()) return nullptr;
    auto* cache = static_cast<SecretCache*>(part_of_this_thread());
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

SecretCache* SecretCaches::make_mine() {
    auto made = std::make_unique<SecretCache>();
    SecretCache* const cache = made.get();
    set_part_of_this_thread(cache, [&] {
        const std::lock_guard lock{mutex_};
        caches_.push_back(std::move(made));
    });
    return cache;
}

void SecretCaches::retire(void* part) noexcept {
    last_used_ = {};
    auto* const cache = static_cast<SecretCache*>(part);
    const std::lock_guard lock{mutex_};
    cache->drain(store_);  // the owner is here, and all others wait for the mutex
    others_.add(cache->counts());
    std::erase_if(caches_, [cache](const auto& one) { return one.get() == cache; });
}

SecretCaches::Drained::Drained(SecretCaches& caches) noexcept : caches_{caches}, lock_{caches.mutex_} {
    const void* const own = caches.part_of_this_thread();
    for (const auto& cache : caches.caches_) cache->owner_lock().revoke();
    const bool all = OwnerLock::barrier();
    for (const auto& cache : caches.caches_) {
        if (!all && cache.get() != own) continue;  // nobody is in this thread's
        if (all) cache->owner_lock().wait_for_owner();
        cache->drain(caches.store_);
    }
}

SecretCaches::Drained::~Drained() {
    for (const auto& cache : caches_.caches_) cache->owner_lock().restore();
}

SecretCaches::Sum SecretCaches::sum() const noexcept {
    const std::lock_guard lock{mutex_};
    Sum sum{.secrets = others_.secrets(), .bytes = others_.bytes()};
    for (const auto& cache : caches_) {
        sum.secrets += cache->counts().secrets();
        sum.bytes += cache->counts().bytes();
    }
    return sum;
}

}  // namespace harena
