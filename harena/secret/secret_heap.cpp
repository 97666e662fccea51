// SPDX-License-Identifier: Apache-2.0
#include "harena/secret/secret_heap.hpp"

#include <bit>
#include <cerrno>
#include <new>

namespace harena {

namespace {

/// The largest run of pages that is taken from blocks.
constexpr std::uint64_t k_largest_run = 16;

}  // namespace

SecretHeap::SecretHeap(const SecretHeapOptions& options, std::unique_ptr<SecretSpace> space)
    : options_{options}, space_{std::move(space)}, store_{*space_}, caches_{store_} {}

Result<std::unique_ptr<SecretHeap>> SecretHeap::create(const SecretHeapOptions& options) try {
    // The gate first: docs/locking.md, "Fork".
    HARENA_TRY(const SecretBackend backend, choose_secret_backend(options.allow_mlock));
    HARENA_CHECK_OK(SecretCaches::prepare());
    HARENA_TRY(auto space,
               SecretSpace::create({.capacity = options.capacity, .max_vmas = options.max_vmas, .backend = backend}));
    return std::unique_ptr<SecretHeap>{new SecretHeap{options, std::move(space)}};
} catch (const std::bad_alloc&) {
    return fail(ENOMEM, "no memory for the records of a secret heap");
}

SecretHeap::~SecretHeap() {
    if (fork_guard_.owner_dead()) return;
    if (space_->backend() == SecretBackend::memfd_secret) return;  // the kernel clears it when the last mapping goes
    store_.wipe_all();
}

Result<void*> SecretHeap::alloc(std::size_t bytes, const SecretAllocOptions& options) {
    if (fork_guard_.owner_dead()) [[unlikely]]
        return pass_on(fork_guard_.check("the secret heap").error());
    if (bytes - 1 < k_largest_slot && options.alignment <= 16 && !options.guarded &&
        std::has_single_bit(options.alignment)) [[likely]] {
        const ClassIndex index = class_for(bytes);
        SecretCache* const cache = caches_.mine();
        if (cache != nullptr && cache->owner_lock().try_lock()) [[likely]] {
            std::byte* const slot = cache->pop(index);
            cache->owner_lock().unlock();
            if (slot != nullptr) [[likely]]
                return make_live(slot, bytes, cache);
        }
        HARENA_TRY(std::byte* const slot, take_slot(index));
        return make_live(slot, bytes, caches_.mine());
    }
    if (bytes == 0) return fail(EINVAL, "a secret of 0 bytes: it takes 1 or more");
    if (!std::has_single_bit(options.alignment) || options.alignment > k_page_size)
        return fail(EINVAL, "a secret aligned to {}: it takes a power of two, up to {}", options.alignment,
                    k_page_size);
    if (bytes > options_.capacity)
        return fail(ENOMEM, "a secret of {} bytes: the capacity of the heap is {} bytes", bytes, options_.capacity);
    if (options.guarded || SlabStore::run_pages(bytes, options.alignment) > k_largest_run)
        return store_.alloc_span(bytes, options.alignment);
    return alloc_run(bytes, options.alignment);
}

void* SecretHeap::make_live(std::byte* slot, std::size_t bytes, SecretCache* cache) noexcept {
    Slab* const slab = store_.slab_of(slot);
    if (slab == nullptr) [[unlikely]]
        stop_after(Violation::record_overwritten, slot);
    slab->make_live(slot, bytes);
    if (cache != nullptr) [[likely]]
        cache->counts().add(bytes);
    else
        caches_.count_without_cache([bytes](SecretCounts& counts) { counts.add(bytes); });
    return slot;
}

Result<std::byte*> SecretHeap::take_slot(ClassIndex index) {
    if (SecretCache* const cache = caches_.mine(); cache != nullptr && cache->owner_lock().try_lock()) {
        std::byte* slot = cache->pop(index);
        if (slot == nullptr && cache->refill(store_, index)) slot = cache->pop(index);
        cache->owner_lock().unlock();
        if (slot != nullptr) return slot;
    }
    return take_slot_slowly(index);
}

Result<std::byte*> SecretHeap::take_slot_slowly(ClassIndex index) {
    while (true) {
        std::byte* slot = nullptr;
        HARENA_TRY(const std::size_t taken, store_.take_slots(index, {&slot, 1}));
        if (taken == 1) return slot;
        auto grown = store_.grow(1);
        if (grown) continue;
        // What other threads keep is all that is left. No cache fills meanwhile, and no lock is waited for here that is
        // held while memory is mapped.
        const SecretCaches::Drained all{caches_};
        store_.release_free_slabs();
        HARENA_TRY(const std::size_t found, store_.take_slots(index, {&slot, 1}));
        if (found == 1) return slot;
        return pass_on(std::move(grown).error());
    }
}

Result<void*> SecretHeap::alloc_run(std::size_t bytes, std::size_t alignment) {
    while (true) {
        HARENA_TRY(void* const taken, store_.alloc_run(bytes, alignment));
        if (taken != nullptr) return taken;
        auto grown = store_.grow(SlabStore::run_pages(bytes, alignment));
        if (grown) continue;
        const SecretCaches::Drained all{caches_};
        store_.release_free_slabs();
        HARENA_TRY(void* const found, store_.alloc_run(bytes, alignment));
        if (found != nullptr) return found;
        return pass_on(std::move(grown).error());
    }
}

Result<void> SecretHeap::free(void* secret) {
    if (fork_guard_.owner_dead()) [[unlikely]]
        return fork_guard_.check("the secret heap");
    if (secret == nullptr) return {};
    auto* const at = static_cast<std::byte*>(secret);
    Slab* const slab = store_.slab_of(at);
    if (slab == nullptr) {
        store_.free_run(at);
        return {};
    }
    const std::size_t bytes = slab->make_free(at);
    SecretCache* const cache = caches_.mine();
    if (cache == nullptr) [[unlikely]] {
        caches_.count_without_cache([bytes](SecretCounts& counts) { counts.remove(bytes); });
        store_.give_slots({&at, 1});
        return {};
    }
    cache->counts().remove(bytes);
    if (!cache->owner_lock().try_lock()) [[unlikely]] {
        store_.give_slots({&at, 1});
        return {};
    }
    const ClassIndex index = slab->class_index();
    if (!cache->push(index, at)) [[unlikely]] {
        cache->spill(store_, index);
        (void)cache->push(index, at);
    }
    cache->owner_lock().unlock();
    return {};
}

std::size_t SecretHeap::size_of(const void* secret) const noexcept {
    if (fork_guard_.owner_dead()) return 0;
    const auto* const at = static_cast<const std::byte*>(secret);
    const Slab* const slab = store_.slab_of(at);
    return slab == nullptr ? store_.run_size_of(at) : slab->size_of(at);
}

std::uint64_t SecretHeap::trim() noexcept {
    if (fork_guard_.owner_dead()) return 0;
    {
        const SecretCaches::Drained all{caches_};
        store_.release_free_slabs();
    }
    return store_.release_free_blocks();
}

SecretStatistics SecretHeap::statistics() const {
    SecretStatistics statistics{.backend = space_->backend(),
                                .live = 0,
                                .live_bytes = 0,
                                .locked_bytes = 0,
                                .blocks = 0,
                                .vmas = 0,
                                .capacity = options_.capacity};
    if (fork_guard_.owner_dead()) return statistics;
    const SecretCaches::Sum slots = caches_.sum();
    const SlabStore::Usage runs = store_.usage();
    const SecretSpace::Usage mapped = space_->usage();
    statistics.live = slots.secrets + runs.runs;
    statistics.live_bytes = slots.bytes + runs.run_bytes;
    statistics.locked_bytes = mapped.locked_bytes;
    statistics.blocks = runs.blocks;
    statistics.vmas = mapped.vmas;
    return statistics;
}

}  // namespace harena
