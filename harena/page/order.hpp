// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "harena/base/page_math.hpp"
#include "harena/base/types.hpp"

namespace harena {

/// Page frame number: which page of a pool. Its bytes are at offset 4096 * pfn of the pool's file.
using Pfn = StrongNumber<struct PfnTag, std::uint32_t>;

/// A block of order k is 2^k pages that begin at a multiple of 2^k. From 0 to `k_max_order`.
using Order = StrongNumber<struct OrderTag, std::uint8_t>;

inline constexpr Order k_max_order{10};
inline constexpr std::size_t k_orders = k_max_order.value() + 1;

/// A pageblock, the unit in which a pool grows and is given back, is one 2 MiB page-table entry.
inline constexpr Order k_pageblock_order{9};
inline constexpr std::uint32_t k_pageblock_pages = 1U << k_pageblock_order.value();

/// One number for each order.
using PerOrder = std::array<std::uint64_t, k_orders>;

[[nodiscard]] constexpr std::uint32_t pages_of(Order order) noexcept { return 1U << order.value(); }
[[nodiscard]] constexpr std::uint64_t bytes_of(Order order) noexcept { return k_page_size << order.value(); }
[[nodiscard]] constexpr std::uint64_t byte_offset(Pfn pfn) noexcept {
    return std::uint64_t{pfn.value()} << k_page_shift;
}
/// The first page of the pageblock that `pfn` is in.
[[nodiscard]] constexpr Pfn pageblock_begin(Pfn pfn) noexcept { return Pfn{pfn.value() & ~(k_pageblock_pages - 1)}; }
[[nodiscard]] constexpr std::uint32_t pageblock_of(Pfn pfn) noexcept {
    return pfn.value() >> k_pageblock_order.value();
}
[[nodiscard]] constexpr Pfn operator+(Pfn pfn, std::uint32_t pages) noexcept { return Pfn{pfn.value() + pages}; }

/// The largest order of a block that begins at `pfn` and has at most `pages` (not 0) pages.
[[nodiscard]] constexpr Order largest_order(Pfn pfn, std::uint32_t pages) noexcept {
    std::uint8_t order = 0;
    while (order < k_max_order.value() && (2U << order) <= pages && (pfn.value() & ((2U << order) - 1)) == 0) ++order;
    return Order{order};
}

}  // namespace harena
