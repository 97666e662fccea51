// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <new>
#include <type_traits>
#include <utility>

#include "harena/arena/arena.hpp"
#include "harena/arena/arena_ptr.hpp"
#include "harena/arena/heap_size_classes.hpp"
#include "harena/arena/heap_slab.hpp"
#include "harena/base/fork.hpp"
#include "harena/base/result.hpp"
#include "harena/base/zeroed_array.hpp"

namespace harena {

struct HeapStatistics {
    std::uint64_t objects;        ///< that are allocated
    std::uint64_t bytes;          ///< of their slots: what they were rounded up to
    PageCount pages;              ///< of the arena that the heap has, those of slots that are free too
    std::uint64_t refused_frees;  ///< of what was no object, or none any more
};

/// Objects of any size in an arena (kernel: slab allocator): what the host builds for programs to read, and they for
/// it.
///
/// Objects of up to 2048 bytes share slabs of one page, or of four where there are many; larger ones have whole pages.
/// An empty slab goes back to the arena, except one of each size.
///
/// What is known of objects is kept outside of the arena: the heap stays whole, and hands out memory of the arena only
/// and no memory twice, whatever programs and other processes write there. If they free its pages behind its back, the
/// objects there lose their contents, no more.
///
/// All functions are thread-safe, and return EOWNERDEAD in a child after fork. 8 bytes of address space for each page
/// of the arena, about 200 bytes of memory for each slab.
class ArenaHeap {
public:
    /// Errors: EINVAL (no arena), ENOMEM.
    [[nodiscard]] static Result<std::unique_ptr<ArenaHeap>> create(std::shared_ptr<Arena> arena);
    ArenaHeap(const ArenaHeap&) = delete;
    ArenaHeap& operator=(const ArenaHeap&) = delete;
    /// Gives all pages back to the arena, with the objects that are left in them.
    ~ArenaHeap();

    [[nodiscard]] Arena& arena() const noexcept { return *arena_; }

    /// Allocates `bytes` zeroed bytes at a multiple of `alignment`, never at an address whose low 32 bits are 0.
    /// Errors: EINVAL (0 bytes; an alignment that is no power of two or more than a page), ENOMEM (the arena has no
    /// room, or the host no memory to keep account of it).
    [[nodiscard]] Result<void*> alloc(std::size_t bytes, std::size_t alignment = heap_size_classes::k_granule);

    /// Frees what `alloc` returned; null is nothing. Errors: EINVAL (no object of this heap begins there: one that was
    /// freed before, a foreign pointer), and those of the kernel where it does not take the pages of a large object
    /// back: then it stays allocated.
    Result<void> free(void* object);

    /// Allocates and constructs a T. Errors: those of `alloc`.
    template <typename T, typename... Args>
    [[nodiscard]] Result<T*> make(Args&&... args) {
        static_assert(k_arena_type<T>, "contents of an arena are shared with programs, which know no constructors");
        static_assert(std::is_nothrow_constructible_v<T, Args...>, "no exception crosses this call");
        static_assert(alignof(T) <= k_page_size);
        HARENA_TRY(void* const memory, alloc(sizeof(T), alignof(T)));
        return ::new (memory) T(std::forward<Args>(args)...);
    }

    /// Frees what `make` returned; null is nothing. Errors: those of `free`.
    template <typename T>
    Result<void> destroy(T* object) {
        static_assert(k_arena_type<T>, "what has a destructor was not made here");
        return free(const_cast<std::remove_cv_t<T>*>(object));
    }

    /// Gives the empty slabs that are kept back to the arena. Errors: those of the kernel where it does not take pages
    /// back: they stay the heap's.
    Result<void> shrink();

    /// Exact when no other thread is at work. Errors: EOWNERDEAD only.
    [[nodiscard]] Result<HeapStatistics> statistics() const;

private:
    /// Slabs of one size, by whether they have a free slot.
    struct SizeClass {
        HeapSlab::List with_room;
        HeapSlab::List full;
        HeapSlab* spare = nullptr;  // an empty one with room that is kept
    };
    struct PageOwner {
        HeapSlab* slab;
    };
    static constexpr std::size_t k_whole_pages = heap_size_classes::k_count;  // the class of large objects

    explicit ArenaHeap(std::shared_ptr<Arena> arena);

    /// A slot of the class, or null if none is free.
    [[nodiscard]] void* take_slot(std::size_t size_class) noexcept;
    /// The same from a slab that is made for it, of `preferred` pages or, where they are not to be had, of fewer.
    [[nodiscard]] Result<void*> take_new_slot(std::size_t size_class, PageCount preferred, PageCount least);
    [[nodiscard]] Result<void*> make_slab(std::size_t size_class, PageCount count);

    /// Under the mutex: makes the pages of a slab that are nobody's its own; whether that is all of them.
    [[nodiscard]] bool claim(HeapSlab& slab) noexcept;
    void unclaim(const HeapSlab& slab) noexcept;
    /// Gives the pages that `claim` made the slab's back to the arena.
    void give_back_claimed(const HeapSlab& slab);

    /// Under the mutex: puts a slab that had a slot freed where it belongs, which is `gone` if it is to be given back.
    void settle(HeapSlab& slab, bool was_full, HeapSlab::List& gone) noexcept;
    void take_out(HeapSlab& slab, HeapSlab::List& gone) noexcept;
    void put_in(HeapSlab::List& one) noexcept;
    /// Gives the pages of slabs that were taken out back to the arena. What the kernel does not take is put in again,
    /// and its error returned.
    Result<void> give_back(HeapSlab::List& gone);
    Result<void> free_pages(PageRange pages);

    [[nodiscard]] HeapSlab::List& list_of(const HeapSlab& slab) noexcept;
    [[nodiscard]] std::uint64_t take(HeapSlab& slab) noexcept;
    [[nodiscard]] std::uint64_t offset_of(const void* address) const noexcept {
        return reinterpret_cast<std::uint64_t>(address) - arena_->user_vm_start().value();
    }
    [[nodiscard]] void* address_of(std::uint64_t offset) const noexcept { return arena_->data() + offset; }

    std::shared_ptr<Arena> arena_;
    ForkGuard fork_guard_;

    mutable std::mutex mutex_;  // a leaf: neither the arena's functions are called nor its pages touched under it
    // Invariant, under the mutex: a page's owner is the slab that has it, null if none has. The heap has the page
    // allocated in the arena, unless somebody freed it behind its back.
    ZeroedArray<PageOwner> owners_;
    // Page 0, if its address is null for programs: a slab without slots, so that nothing there is ever handed out.
    HeapSlab null_page_;
    bool has_null_page_ = false;
    std::array<SizeClass, heap_size_classes::k_count> classes_;
    HeapSlab::List large_;
    std::uint64_t objects_ = 0;
    std::uint64_t object_bytes_ = 0;
    std::uint64_t pages_ = 0;
    std::uint64_t refused_frees_ = 0;
};

template <typename T, typename... Args>
Result<T*> Arena::make(Args&&... args) {
    HARENA_TRY(ArenaHeap* const own, heap());
    return own->make<T>(std::forward<Args>(args)...);
}

template <typename T>
Result<void> Arena::destroy(T* object) {
    HARENA_TRY(ArenaHeap* const own, heap());
    return own->destroy(object);
}

}  // namespace harena
