// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <memory_resource>

#include "harena/secret/secret_heap.hpp"

namespace harena {

/// Containers of `std::pmr` with their elements in secret memory: `std::pmr::vector<std::byte> v{&resource};`. What a
/// container gives back, as when it grows, is zero at once.
///
/// `allocate` throws std::bad_alloc where there is no memory, as containers demand: beside that of `ArenaResource` the
/// one exception of the library. A container's own object is not in the heap: `std::pmr::string` keeps up to 15
/// characters there, on the stack. Use `SecretString`. Thread-safe, as the heap is, which must outlive it.
class SecretResource final : public std::pmr::memory_resource {
public:
    explicit SecretResource(SecretHeap& heap) noexcept : heap_{&heap} {}

    [[nodiscard]] SecretHeap& heap() const noexcept { return *heap_; }

private:
    void* do_allocate(std::size_t bytes, std::size_t alignment) override;
    void do_deallocate(void* secret, std::size_t bytes, std::size_t alignment) override;
    /// Whether one frees what the other allocates: both are of one heap.
    [[nodiscard]] bool do_is_equal(const std::pmr::memory_resource& other) const noexcept override;

    SecretHeap* heap_;
};

}  // namespace harena
