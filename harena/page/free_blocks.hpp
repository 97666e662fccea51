// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstdint>
#include <optional>

#include "harena/page/page.hpp"

namespace harena {

/// A block that was taken out of a `FreeBlocks`.
struct FreeBlock {
    Pfn first;
    Order order{};
    bool zero = false;  // all its bytes are known to be 0
};

/// Free blocks of 2^order pages: the buddy allocator.
///
/// Keeps its links in the page descriptors, never in the free pages: a page may have no address while it is free.
/// Several may share one array of descriptors; each has a number of its own, and blocks merge within one only.
/// Not thread-safe: the owner holds a lock. Descriptors of blocks that are not in it are only read, atomically.
class FreeBlocks {
public:
    /// `list` tells this one from others over the same descriptors.
    FreeBlocks(const PageArray& pages, std::uint8_t list) noexcept;

    /// Takes a block of `order`, splitting the smallest larger one; none if there is no block so large. The descriptor
    /// says `cached`.
    [[nodiscard]] std::optional<FreeBlock> take(Order order) noexcept;
    /// Takes one of the largest blocks, whole.
    [[nodiscard]] std::optional<FreeBlock> take_largest() noexcept;
    /// Takes the block [first, first + 2^order) if it lies in one free block, splitting that.
    [[nodiscard]] std::optional<FreeBlock> take_at(Pfn first, Order order) noexcept;

    /// Gives a block to the list and merges it with its free buddies. A merged block is known to be zero if both halves
    /// are. Returns the order it ended up in.
    Order give(const FreeBlock& block) noexcept;

    /// The free block that begins at `pfn`, if one does.
    [[nodiscard]] std::optional<FreeBlock> at(Pfn pfn) const noexcept;

    [[nodiscard]] std::uint64_t blocks(Order order) const noexcept { return counts_[order.value()]; }
    [[nodiscard]] const PerOrder& blocks() const noexcept { return counts_; }
    [[nodiscard]] std::uint64_t pages() const noexcept { return total_; }

private:
    static constexpr std::uint32_t k_none = ~0U;

    void link(const FreeBlock& block) noexcept;
    /// Unlinks the free block that begins at `first`.
    FreeBlock unlink(Pfn first) noexcept;
    /// Gives back all of `block` but the part of `order` at `first`, which it returns.
    FreeBlock split(FreeBlock block, Pfn first, Order order) noexcept;

    // Invariant: a page is in the list of order k iff its descriptor says {free, k, list_}; its buddy of order k then
    // does not say so too (else they would have merged), unless k is the largest order.
    const PageArray& pages_;
    std::uint8_t list_;
    std::uint32_t has_blocks_ = 0;  // bit k is set iff counts_[k] is not 0
    std::array<std::uint32_t, k_orders> heads_;
    PerOrder counts_{};
    std::uint64_t total_ = 0;
};

}  // namespace harena
