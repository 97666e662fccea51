// SPDX-License-Identifier: Apache-2.0
#include "harena/arena/arena_heap.hpp"

#include <bit>
#include <cerrno>
#include <cstring>

#include "harena/base/assert.hpp"
#include "harena/base/page_math.hpp"

namespace harena {

namespace {

/// Pages of a slab where its size has one already: 1024 of the smallest slots.
constexpr PageCount k_slab_pages{4};
constexpr PageCount k_one_page{1};
/// How often pages are asked for that turn out to be the heap's. Each time brings a page back that somebody freed.
constexpr int k_attempts = 16;

constexpr std::uint64_t k_low_32_bits = 0xffff'ffff;

}  // namespace

Arena::~Arena() { precondition(heap_.load() == nullptr, "the destructor of what derives from Arena calls end_heap"); }

Result<ArenaHeap*> Arena::heap() {
    ArenaHeap* now = heap_.load(std::memory_order_acquire);
    if (now == nullptr) {
        // Not an owner: the arena has the heap.
        HARENA_TRY(std::unique_ptr<ArenaHeap> made, ArenaHeap::create({std::shared_ptr<Arena>{}, this}));
        // Else another thread was first.
        if (heap_.compare_exchange_strong(now, made.get(), std::memory_order_acq_rel)) now = made.release();
    }
    return now;
}

void Arena::end_heap() noexcept { delete heap_.exchange(nullptr); }

Result<std::unique_ptr<ArenaHeap>> ArenaHeap::create(std::shared_ptr<Arena> arena) try {
    if (!arena) return fail(EINVAL, "a heap needs an arena");
    return std::unique_ptr<ArenaHeap>{new ArenaHeap{std::move(arena)}};
} catch (const std::bad_alloc&) {
    return fail(ENOMEM, "no memory to keep account of a heap");
}

ArenaHeap::ArenaHeap(std::shared_ptr<Arena> arena)
    : arena_{std::move(arena)},
      owners_{arena_->pages().value()},
      null_page_{PageRange::of(PageIndex{0}, k_one_page), 2 * k_page_size, k_whole_pages} {
    if ((arena_->user_vm_start().value() & k_low_32_bits) == 0) owners_[0].slab = &null_page_;
}

ArenaHeap::~ArenaHeap() {
    const auto free_all = [this](const HeapSlab::List& slabs) {
        for (const HeapSlab& slab : slabs) (void)free_pages(slab.pages());
    };
    for (const SizeClass& size_class : classes_) {
        free_all(size_class.with_room);
        free_all(size_class.full);
    }
    free_all(large_);
    if (has_null_page_) (void)free_pages(null_page_.pages());
}

Result<void*> ArenaHeap::alloc(std::size_t bytes, std::size_t alignment) try {
    HARENA_CHECK_OK(fork_guard_.check("the arena's heap"));
    if (bytes == 0) return fail(EINVAL, "cannot allocate 0 bytes");
    if (!std::has_single_bit(alignment) || alignment > k_page_size)
        return fail(EINVAL, "an alignment of {} is no power of two up to {}", alignment, k_page_size);
    const auto size_class = heap_size_classes::fitting(bytes, alignment);
    if (!size_class) {
        if (bytes > arena_->size()) return fail(ENOMEM, "{} bytes are more than arena '{}' has", bytes, arena_->name());
        // The arena clears them.
        return take_new_slot(k_whole_pages, pages_for(bytes), pages_for(bytes));
    }
    void* slot = take_slot(*size_class);
    if (slot == nullptr) {
        // The first slab of a size is small: most sizes have few objects.
        const bool first = [&] {
            const std::lock_guard lock{mutex_};
            return classes_[*size_class].full.empty();
        }();
        HARENA_TRY(slot, take_new_slot(*size_class, first ? k_one_page : k_slab_pages, k_one_page));
    }
    std::memset(slot, 0, heap_size_classes::bytes_of(*size_class));
    return slot;
} catch (const std::bad_alloc&) {
    return fail(ENOMEM, "no memory to keep account of an object of {} bytes", bytes);
}

void* ArenaHeap::take_slot(std::size_t size_class) noexcept {
    const std::lock_guard lock{mutex_};
    SizeClass& slabs = classes_[size_class];
    if (slabs.with_room.empty()) return nullptr;
    HeapSlab& slab = slabs.with_room.front();
    if (slabs.spare == &slab) slabs.spare = nullptr;
    const std::uint64_t offset = take(slab);
    if (slab.full()) slabs.full.splice(slabs.full.begin(), slabs.with_room, slab.self);
    return address_of(offset);
}

std::uint64_t ArenaHeap::take(HeapSlab& slab) noexcept {
    ++objects_;
    object_bytes_ += slab.slot_bytes();
    return slab.take();
}

Result<void*> ArenaHeap::take_new_slot(std::size_t size_class, PageCount preferred, PageCount least) {
    auto slot = make_slab(size_class, preferred);
    if (!slot && preferred > least) slot = make_slab(size_class, least);
    if (slot || slot.error().code() != ENOMEM) return slot;
    (void)shrink();  // what other sizes keep
    return make_slab(size_class, least);
}

Result<void*> ArenaHeap::make_slab(std::size_t size_class, PageCount count) {
    if (count > arena_->pages())
        return fail(ENOMEM, "arena '{}' has less than {} pages", arena_->name(), count.value());
    const std::size_t slot_bytes =
        size_class == k_whole_pages ? harena::bytes_of(count) : heap_size_classes::bytes_of(size_class);
    HeapSlab::List one;
    one.emplace_front(PageRange::of(PageIndex{0}, count), slot_bytes, size_class);
    HeapSlab& slab = one.front();
    slab.self = one.begin();
    for (int attempt = 0; attempt < k_attempts; ++attempt) {
        HARENA_TRY(void* const memory, arena_->alloc_pages(count));
        slab.place_at(PageIndex{offset_of(memory) / k_page_size});
        {
            const std::lock_guard lock{mutex_};
            if (claim(slab)) {
                const std::uint64_t offset = take(slab);
                put_in(one);
                return address_of(offset);
            }
        }
        // Some of them are pages that the heap has, freed behind its back: now it has them again. Or the null page.
        give_back_claimed(slab);
    }
    return fail(ENOMEM, "pages of the heap in arena '{}' are freed behind its back, again and again", arena_->name());
}

bool ArenaHeap::claim(HeapSlab& slab) noexcept {
    bool all = true;
    for (PageIndex page = slab.pages().begin; page < slab.pages().end; page = page + k_one_page) {
        HeapSlab*& owner = owners_[page.value()].slab;
        if (owner == &null_page_) has_null_page_ = true;
        all = all && owner == nullptr;
        if (owner == nullptr) owner = &slab;
    }
    return all;
}

void ArenaHeap::unclaim(const HeapSlab& slab) noexcept {
    for (PageIndex page = slab.pages().begin; page < slab.pages().end; page = page + k_one_page)
        if (owners_[page.value()].slab == &slab) owners_[page.value()].slab = nullptr;
}

void ArenaHeap::give_back_claimed(const HeapSlab& slab) {
    for (PageIndex page = slab.pages().begin; page < slab.pages().end; page = page + k_one_page) {
        {
            const std::lock_guard lock{mutex_};
            if (owners_[page.value()].slab != &slab) continue;
            owners_[page.value()].slab = nullptr;
        }
        (void)arena_->free_pages(address_of(byte_offset(page)), k_one_page);
    }
}

Result<void> ArenaHeap::free(void* object) {
    HARENA_CHECK_OK(fork_guard_.check("the arena's heap"));
    if (object == nullptr) return {};
    HeapSlab::List gone;
    bool freed = false;
    {
        const std::lock_guard lock{mutex_};
        const std::uint64_t offset = offset_of(object);
        HeapSlab* const slab = arena_->contains(object) ? owners_[offset / k_page_size].slab : nullptr;
        if (slab != nullptr) {
            const bool was_full = slab->full();
            freed = slab->give(offset);
            if (freed) {
                --objects_;
                object_bytes_ -= slab->slot_bytes();
                settle(*slab, was_full, gone);
            }
        }
        if (!freed) ++refused_frees_;
    }
    if (!freed)
        return fail(EINVAL, "{} is no object of the heap in arena '{}': foreign, or freed before", object,
                    arena_->name());
    const bool large = !gone.empty() && gone.front().size_class() == k_whole_pages;
    const auto given_back = give_back(gone);
    // An empty slab that the kernel did not take is kept; the object is freed all the same.
    return large ? given_back : Result<void>{};
}

void ArenaHeap::settle(HeapSlab& slab, bool was_full, HeapSlab::List& gone) noexcept {
    if (slab.size_class() == k_whole_pages) {
        take_out(slab, gone);
        return;
    }
    SizeClass& slabs = classes_[slab.size_class()];
    if (was_full) slabs.with_room.splice(slabs.with_room.begin(), slabs.full, slab.self);
    if (!slab.empty()) return;
    if (slabs.spare != nullptr) {
        take_out(slab, gone);
        return;
    }
    slabs.spare = &slab;
    slabs.with_room.splice(slabs.with_room.end(), slabs.with_room, slab.self);
}

HeapSlab::List& ArenaHeap::list_of(const HeapSlab& slab) noexcept {
    return slab.size_class() == k_whole_pages ? large_ : classes_[slab.size_class()].with_room;
}

void ArenaHeap::take_out(HeapSlab& slab, HeapSlab::List& gone) noexcept {
    unclaim(slab);
    pages_ -= slab.pages().count().value();
    gone.splice(gone.end(), list_of(slab), slab.self);
}

void ArenaHeap::put_in(HeapSlab::List& one) noexcept {
    HeapSlab& slab = one.front();
    pages_ += slab.pages().count().value();
    list_of(slab).splice(list_of(slab).begin(), one);
}

Result<void> ArenaHeap::give_back(HeapSlab::List& gone) {
    Result<void> outcome;
    while (!gone.empty()) {
        HeapSlab::List one;
        one.splice(one.begin(), gone, gone.begin());
        HeapSlab& slab = one.front();
        const auto freed = free_pages(slab.pages());
        if (freed) continue;
        outcome = freed;
        const std::lock_guard lock{mutex_};
        if (!claim(slab)) {
            unclaim(slab);  // somebody freed some of them, and they are another slab's already
            continue;
        }
        if (slab.size_class() == k_whole_pages) {
            (void)take(slab);
        } else if (SizeClass& slabs = classes_[slab.size_class()]; slabs.spare == nullptr) {
            slabs.spare = &slab;
        }
        put_in(one);
    }
    return outcome;
}

Result<void> ArenaHeap::free_pages(PageRange pages) {
    const auto freed = arena_->free_pages(address_of(byte_offset(pages.begin)), pages.count());
    if (freed || freed.error().code() != EINVAL) return freed;
    // Somebody freed some of them behind our back: the rest.
    for (PageIndex page = pages.begin; page < pages.end; page = page + k_one_page)
        (void)arena_->free_pages(address_of(byte_offset(page)), k_one_page);
    return {};
}

Result<void> ArenaHeap::shrink() {
    HARENA_CHECK_OK(fork_guard_.check("the arena's heap"));
    HeapSlab::List gone;
    {
        const std::lock_guard lock{mutex_};
        for (SizeClass& slabs : classes_)
            if (slabs.spare != nullptr) take_out(*std::exchange(slabs.spare, nullptr), gone);
    }
    return give_back(gone);
}

Result<HeapStatistics> ArenaHeap::statistics() const {
    HARENA_CHECK_OK(fork_guard_.check("the arena's heap"));
    const std::lock_guard lock{mutex_};
    return HeapStatistics{.objects = objects_,
                          .bytes = object_bytes_,
                          .pages = PageCount{pages_ + (has_null_page_ ? 1U : 0U)},
                          .refused_frees = refused_frees_};
}

}  // namespace harena
