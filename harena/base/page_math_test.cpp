// SPDX-License-Identifier: Apache-2.0
#include "harena/base/page_math.hpp"

#include <limits>
#include <type_traits>

#include <gtest/gtest.h>

namespace harena {
namespace {

constexpr std::uint64_t k_max = std::numeric_limits<std::uint64_t>::max();

TEST(PageMath, alignment_at_the_edges) {
    EXPECT_TRUE(is_aligned(0, k_page_size));
    EXPECT_TRUE(is_aligned(4096, k_page_size));
    EXPECT_FALSE(is_aligned(4095, k_page_size));
    EXPECT_FALSE(is_aligned(k_max, k_page_size));
    EXPECT_TRUE(is_aligned(k_max, 1));
    EXPECT_EQ(align_down(4095, k_page_size), 0U);
    EXPECT_EQ(align_down(4096, k_page_size), 4096U);
    EXPECT_EQ(align_down(k_max, k_page_size), k_max - 4095);
    EXPECT_EQ(align_up(0, k_page_size), 0U);
    EXPECT_EQ(align_up(1, k_page_size), 4096U);
    EXPECT_EQ(align_up(4096, k_page_size), 4096U);
}

TEST(PageMath, align_up_wraps_to_zero_past_the_last_multiple) {
    EXPECT_EQ(align_up(k_max - 4095, k_page_size), k_max - 4095);
    EXPECT_EQ(align_up(k_max - 4094, k_page_size), 0U);
    EXPECT_EQ(align_up(k_max, k_page_size), 0U);
}

TEST(PageMath, bytes_and_pages_convert_both_ways) {
    EXPECT_EQ(pages_for(0), PageCount{0});
    EXPECT_EQ(pages_for(1), PageCount{1});
    EXPECT_EQ(pages_for(4096), PageCount{1});
    EXPECT_EQ(pages_for(4097), PageCount{2});
    EXPECT_EQ(pages_for(4 * k_gib), PageCount{1U << 20});
    EXPECT_EQ(pages_for(k_max - 4095), PageCount{(std::uint64_t{1} << 52) - 1});
    EXPECT_EQ(bytes_of(PageCount{1U << 20}), 4 * k_gib);
    EXPECT_EQ(byte_offset(PageIndex{(1U << 20) - 1}), 4 * k_gib - 4096);
}

TEST(PageRange, counts_and_compares) {
    constexpr PageRange k_range = PageRange::of(PageIndex{3}, PageCount{4});
    EXPECT_EQ(k_range.end, PageIndex{7});
    EXPECT_EQ(k_range.count(), PageCount{4});
    EXPECT_FALSE(k_range.empty());
    EXPECT_TRUE(PageRange::of(PageIndex{3}, PageCount{0}).empty());
    EXPECT_EQ(k_range, (PageRange{PageIndex{3}, PageIndex{7}}));
}

// Passing one kind of number for another does not compile.
static_assert(!std::is_convertible_v<PageCount, PageIndex>);
static_assert(!std::is_convertible_v<std::uint64_t, PageCount>);
static_assert(!std::is_constructible_v<PageIndex, PageCount>);
static_assert(!std::is_convertible_v<UserAddress, std::uint64_t>);

}  // namespace
}  // namespace harena
