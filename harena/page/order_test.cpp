// SPDX-License-Identifier: Apache-2.0
#include "harena/page/order.hpp"

#include <random>

#include <gtest/gtest.h>

namespace harena {
namespace {

TEST(Order, a_pageblock_is_one_2_mib_page_table_entry) {
    EXPECT_EQ(pages_of(k_pageblock_order), k_pageblock_pages);
    EXPECT_EQ(bytes_of(k_pageblock_order), k_huge_page_size);
    EXPECT_EQ(bytes_of(k_max_order), 2 * k_huge_page_size);
    EXPECT_EQ(pages_of(Order{}), 1U);
    EXPECT_EQ(bytes_of(Order{}), k_page_size);
}

TEST(Order, byte_offsets_beyond_4_gib_are_exact) {
    EXPECT_EQ(byte_offset(Pfn{1U << 20}), 4 * k_gib);
    EXPECT_EQ(byte_offset(Pfn{~0U}), 0xffff'ffffULL << 12);
}

TEST(Order, a_page_is_in_the_pageblock_that_begins_at_the_multiple_of_512_below_it) {
    for (const std::uint32_t begin : {0U, 512U, 5U * 512U, ~0U - 511U}) {
        for (const std::uint32_t inside : {0U, 1U, 511U}) {
            EXPECT_EQ(pageblock_begin(Pfn{begin + inside}), Pfn{begin});
            EXPECT_EQ(pageblock_of(Pfn{begin + inside}), begin / 512);
        }
    }
}

constexpr bool fits(Order order, Pfn pfn, std::uint32_t pages) {
    return pages_of(order) <= pages && pfn.value() % pages_of(order) == 0;
}

TEST(Order, the_largest_order_fits_and_the_next_one_does_not) {
    std::mt19937 random{1};
    for (int i = 0; i < 100'000; ++i) {
        // All numbers of trailing zeros and all sizes are about equally frequent.
        const Pfn pfn{static_cast<std::uint32_t>(random()) << random() % 32};
        const std::uint32_t pages = (static_cast<std::uint32_t>(random()) >> random() % 32) | 1U;
        const Order order = largest_order(pfn, pages);
        ASSERT_LE(order, k_max_order);
        ASSERT_TRUE(fits(order, pfn, pages)) << pfn.value() << " " << pages;
        if (order < k_max_order) {
            const Order next{static_cast<std::uint8_t>(order.value() + 1)};
            ASSERT_FALSE(fits(next, pfn, pages)) << pfn.value() << " " << pages;
        }
    }
}

TEST(Order, the_largest_order_at_the_limits) {
    EXPECT_EQ(largest_order(Pfn{0}, 1), Order{0});
    EXPECT_EQ(largest_order(Pfn{0}, 1023), Order{9});
    EXPECT_EQ(largest_order(Pfn{0}, 1024), Order{10});
    EXPECT_EQ(largest_order(Pfn{0}, ~0U), Order{10});
    EXPECT_EQ(largest_order(Pfn{512}, ~0U), Order{9});
    EXPECT_EQ(largest_order(Pfn{~0U}, ~0U), Order{0});
}

}  // namespace
}  // namespace harena
