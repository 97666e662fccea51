// SPDX-License-Identifier: Apache-2.0
#include "harena/secret/slab_store.hpp"

#include <algorithm>
#include <cerrno>
#include <new>

#include "harena/base/os/memory.hpp"

namespace harena {

namespace {

constexpr std::size_t k_slabs_at_once = 32;

}  // namespace

SlabStore::SlabStore(SecretSpace& space) : space_{space}, base_{space.base()}, entries_{space.pages()} {}

void SlabStore::set_entries(const std::byte* first, std::uint64_t pages, std::uintptr_t entry) noexcept {
    const std::uint64_t begin = page_index(first);
    for (std::uint64_t i = 0; i < pages; ++i)
        std::atomic_ref{entries_[begin + i]}.store(entry, std::memory_order_release);
}

void SlabStore::link(Slab& slab) noexcept {
    Slab*& first = lists_[slab.class_index()];
    slab.previous = nullptr;
    slab.next = first;
    if (first != nullptr) first->previous = &slab;
    first = &slab;
}

void SlabStore::unlink(Slab& slab) noexcept {
    if (slab.next != nullptr) slab.next->previous = slab.previous;
    (slab.previous != nullptr ? slab.previous->next : lists_[slab.class_index()]) = slab.next;
}

Slab* SlabStore::unused_slab() {
    if (unused_slabs_ == nullptr) {
        slabs_.reserve(slabs_.size() + 1);
        slabs_.push_back(std::make_unique<Slab[]>(k_slabs_at_once));
        for (std::size_t i = 0; i < k_slabs_at_once; ++i) {
            slabs_.back()[i].next = unused_slabs_;
            unused_slabs_ = &slabs_.back()[i];
        }
    }
    return unused_slabs_;
}

Result<Slab*> SlabStore::begin_slab(ClassIndex index) {
    Slab* const slab = unused_slab();
    std::byte* const page = blocks_.take(1);
    if (page == nullptr) return nullptr;
    if (const auto filled = os::fill_random(page, sizeof(CanaryKey)); !filled) {
        blocks_.give(page, 1);
        return os::fail_with(filled.error(), "no random bytes for the canaries of secrets");
    }
    unused_slabs_ = slab->next;
    slab->begin(page, index);
    link(*slab);
    set_entries(page, 1, reinterpret_cast<std::uintptr_t>(slab));
    return slab;
}

void SlabStore::end_slab(Slab& slab) noexcept {
    unlink(slab);
    set_entries(slab.page(), 1, k_freed);
    wipe(slab.page(), k_page_size);
    blocks_.give(slab.page(), 1);
    slab.next = unused_slabs_;
    unused_slabs_ = &slab;
}

Result<std::size_t> SlabStore::take_slots(ClassIndex index, std::span<std::byte*> out) try {
    const std::lock_guard lock{mutex_};
    std::size_t taken = 0;
    while (taken < out.size()) {
        Slab* slab = lists_[index];
        if (slab == nullptr) {
            if (taken > 0) break;
            HARENA_TRY(slab, begin_slab(index));
            if (slab == nullptr) break;
        }
        while (taken < out.size() && slab->free_slots() > 0) out[taken++] = slab->take();
        if (slab->free_slots() == 0) unlink(*slab);
    }
    return taken;
} catch (const std::bad_alloc&) {
    return fail(ENOMEM, "no memory for the records of secrets");
}

void SlabStore::give_slots(std::span<std::byte* const> slots) noexcept {
    const std::lock_guard lock{mutex_};
    for (std::byte* const at : slots) {
        Slab* const slab = slab_of(at);
        if (slab->free_slots() == 0) link(*slab);
        slab->give(at);
        // One is kept, so that a secret that comes and goes does not make and end a slab each time.
        if (slab->all_free() && (slab->previous != nullptr || slab->next != nullptr)) end_slab(*slab);
    }
}

void SlabStore::release_free_slabs() noexcept {
    const std::lock_guard lock{mutex_};
    for (Slab* const first : lists_)
        for (Slab* slab = first; slab != nullptr;) {
            Slab* const next = slab->next;
            if (slab->all_free()) end_slab(*slab);
            slab = next;
        }
}

std::uint64_t SlabStore::release_free_blocks() noexcept {
    std::uint64_t bytes = 0;
    while (true) {
        std::optional<SecretSpan> span;
        {
            const std::lock_guard lock{mutex_};
            span = blocks_.remove_free_block();
            if (!span) return bytes;
            set_entries(span->begin, span->pages, k_freed);
        }
        bytes += span->bytes();
        space_.unmap(*span);
    }
}

Result<void> SlabStore::grow(std::uint64_t pages) try {
    const std::lock_guard growing{grow_mutex_};
    {
        const std::lock_guard lock{mutex_};
        if (blocks_.has(pages)) return {};  // another thread made them
        if (blocks_.count() == 0) next_block_ = SecretBlocks::k_first_pages;
    }
    const std::uint64_t fewest = std::max(pages, SecretBlocks::k_fewest_pages);
    std::uint64_t wanted = std::max(next_block_, fewest);
    Bitmap used{wanted};
    {
        const std::lock_guard lock{mutex_};
        blocks_.reserve();
    }
    auto span = space_.map(wanted);
    bool limited = false;
    while (!span && wanted > fewest && (span.error().code() == EAGAIN || span.error().code() == ENOMEM)) {
        limited = true;
        wanted = std::max(wanted / 2, fewest);
        used = Bitmap{wanted};
        span = space_.map(wanted);
    }
    if (!span) return pass_on(std::move(span).error());
    next_block_ = limited ? wanted : std::min(wanted * 2, SecretBlocks::k_most_pages);
    const std::lock_guard lock{mutex_};
    blocks_.add(*span, std::move(used));
    return {};
} catch (const std::bad_alloc&) {
    return fail(ENOMEM, "no memory for the records of secrets");
}

SlabStore::Usage SlabStore::usage() const {
    const std::lock_guard lock{mutex_};
    return {.blocks = blocks_.count(), .runs = runs_, .run_bytes = run_bytes_};
}

}  // namespace harena
