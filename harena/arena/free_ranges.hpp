// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <utility>

#include "harena/base/types.hpp"

namespace harena {

/// Which pages of an arena are free, as maximal ranges, found by place and by size (kernel: range_tree).
///
/// A hint of this process: the page states decide. Not thread-safe. Functions that say so may throw std::bad_alloc and
/// then leave ranges out; the owner rebuilds the whole from the page states.
class FreeRanges {
public:
    void clear() noexcept;

    /// The smallest range of at least `count` pages; the lowest of several; nullopt if there is none.
    [[nodiscard]] std::optional<PageRange> smallest_of_at_least(PageCount count) const;

    [[nodiscard]] bool contains(PageRange range) const noexcept;

    /// Makes `range` (wholly free) not free. May throw.
    void take(PageRange range);

    /// Makes `range` (no page of it free) free, merged with its neighbours. May throw.
    void give(PageRange range);

    [[nodiscard]] std::size_t ranges() const noexcept { return by_begin_.size(); }

private:
    using ByBegin = std::map<std::uint64_t, std::uint64_t>;  // begin -> end

    void insert(std::uint64_t begin, std::uint64_t end);
    void erase(ByBegin::iterator range);
    [[nodiscard]] ByBegin::const_iterator holding(std::uint64_t page) const noexcept;

    // Invariant: both hold the same ranges, none empty, none overlapping or touching another.
    ByBegin by_begin_;
    std::set<std::pair<std::uint64_t, std::uint64_t>> by_size_;  // (size, begin)
};

}  // namespace harena
