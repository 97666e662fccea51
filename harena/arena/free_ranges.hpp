// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>

#include "harena/base/hierarchical_bitmap.hpp"
#include "harena/base/types.hpp"

namespace harena {

/// Which pages of an arena are free, as maximal ranges, found by place and by size (kernel: range_tree).
///
/// A hint of this process: the page words decide. Every call takes as many steps as the bitmaps have levels (5 for a
/// million pages), for each range that it changes, whatever the number of ranges. Allocates when it is made (23 bits a
/// page for a million pages, touched where they are used) and never again. What it answers depends only on which pages
/// are free. Not thread-safe.
///
/// Ranges that are asked about may lie anywhere; those that are changed lie inside. Empty ranges change nothing.
class FreeRanges {
public:
    /// For pages 0 to `pages` - 1, none of them free. Throws std::bad_alloc.
    explicit FreeRanges(PageCount pages);

    /// Makes no page free.
    void clear() noexcept;

    /// The smallest free range of at least `count` pages (0 is taken for 1), the lowest of several; nullopt if there is
    /// none.
    [[nodiscard]] std::optional<PageRange> smallest_of_at_least(PageCount count) const noexcept;

    /// A free place of `count` pages that begins at a multiple of `alignment` pages, a power of two. Looks at the
    /// smallest range that has one wherever it lies, then at the `k_aligned_looks` smallest of those that may have one:
    /// nullopt if none of them does, although another may.
    [[nodiscard]] std::optional<PageRange> aligned(PageCount count, PageCount alignment) const noexcept;
    static constexpr int k_aligned_looks = 64;

    /// Whether every page of `range` is free.
    [[nodiscard]] bool contains(PageRange range) const noexcept;
    /// Whether a page of `range` is free.
    [[nodiscard]] bool contains_any(PageRange range) const noexcept;
    /// The maximal free range with `page` in it; nullopt if the page is not free.
    [[nodiscard]] std::optional<PageRange> range_holding(PageIndex page) const noexcept;

    /// Makes `range` (wholly free) not free.
    void take(PageRange range) noexcept;
    /// Makes whatever pages of `range` are free not free.
    void take_any(PageRange range) noexcept;

    /// Makes `range` (no page of it free) free, merged with its neighbours.
    void give(PageRange range) noexcept;
    /// Makes whatever pages of `range` are not free yet free.
    void give_any(PageRange range) noexcept;

    /// Free pages.
    [[nodiscard]] PageCount pages() const noexcept { return PageCount{free_pages_}; }
    /// Maximal free ranges.
    [[nodiscard]] std::size_t ranges() const noexcept { return ranges_; }
    /// Pages of the largest free range; 0 if there is none.
    [[nodiscard]] PageCount largest() const noexcept;

private:
    void insert(PageRange range) noexcept;
    void erase(PageRange range) noexcept;
    [[nodiscard]] PageRange beginning_at(std::uint64_t begin) const noexcept;
    /// The range that has its bit of `by_size_` at `position`.
    [[nodiscard]] PageRange at_position(std::size_t position) const noexcept;
    /// Where in `by_size_` ranges of `size` pages that begin at `begin` have their bit.
    [[nodiscard]] std::size_t position(std::uint64_t size, std::uint64_t begin) const noexcept;
    [[nodiscard]] bool is_inside(PageRange range) const noexcept;

    std::uint64_t capacity_;
    unsigned capacity_log2_;  // rounded up
    std::uint64_t free_pages_ = 0;
    std::size_t ranges_ = 0;
    // Invariant: the three hold the same ranges, none empty, none overlapping or touching another.
    HierarchicalBitmap begins_;  // the first page of each
    HierarchicalBitmap lasts_;   // the last page of each
    // One bit a range, ordered by size, then by place. Of the ranges of one size s, 2^k <= s < 2^(k+1), no two begin in
    // the same 2^k pages: so pages / 2^k bits are enough for each of these 2^k sizes, and as many bits as pages for
    // each k.
    HierarchicalBitmap by_size_;
};

}  // namespace harena
