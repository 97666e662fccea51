// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <memory_resource>

#include "harena/arena/arena_heap.hpp"

namespace harena {

/// Containers of `std::pmr` with their elements in an arena: `std::pmr::vector<int> v{&resource};`.
///
/// The one place of the library from which an exception comes: `allocate` throws std::bad_alloc where there is no
/// memory, as containers demand. Freeing what is no object of the heap does nothing (it is counted by the heap), and
/// aborts in debug builds.
///
/// A container of plain elements (vector, string) keeps its own bookkeeping in the host's object. Containers of nodes
/// (map, list, a vector of vectors) keep pointers in the arena and follow them: only for arenas whose programs and
/// sharers are trusted. Thread-safe, as the heap is; the containers are not. The heap must outlive it.
class ArenaResource final : public std::pmr::memory_resource {
public:
    explicit ArenaResource(ArenaHeap& heap) noexcept : heap_{&heap} {}

    [[nodiscard]] ArenaHeap& heap() const noexcept { return *heap_; }

private:
    void* do_allocate(std::size_t bytes, std::size_t alignment) override;
    void do_deallocate(void* object, std::size_t bytes, std::size_t alignment) override;
    /// Whether one frees what the other allocates: both are of one heap.
    [[nodiscard]] bool do_is_equal(const std::pmr::memory_resource& other) const noexcept override;

    ArenaHeap* heap_;
};

}  // namespace harena
