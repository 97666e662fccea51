// SPDX-License-Identifier: Apache-2.0
#include "harena/arena/heap_slab.hpp"

#include <cstdint>
#include <optional>
#include <vector>

#include <gtest/gtest.h>

#include "harena/arena/heap_size_classes.hpp"

namespace harena {
namespace {

TEST(HeapSizeClasses, every_size_fits_the_smallest_class_that_is_aligned_for_it) {
    using namespace heap_size_classes;
    for (std::size_t bytes = 1; bytes <= k_page_size; ++bytes) {
        for (std::size_t alignment = 1; alignment <= k_page_size; alignment *= 2) {
            std::optional<std::size_t> expected;
            for (std::size_t size_class = 0; size_class < k_count && !expected; ++size_class)
                if (heap_size_classes::bytes_of(size_class) >= bytes &&
                    heap_size_classes::bytes_of(size_class) % alignment == 0)
                    expected = size_class;
            ASSERT_EQ(fitting(bytes, alignment), expected) << bytes << " " << alignment;
        }
        if (bytes > 128 && bytes <= k_largest) {
            ASSERT_LE(heap_size_classes::bytes_of(*fitting(bytes, 1)) * 4, bytes * 5) << bytes;
        }
    }
}

TEST(HeapSlab, hands_out_each_slot_once_and_takes_back_what_it_handed_out) {
    HeapSlab slab{PageRange::of(PageIndex{3}, PageCount{1}), 48, 0};
    std::vector<std::uint64_t> taken;
    while (!slab.full()) taken.push_back(slab.take());
    ASSERT_EQ(taken.size(), k_page_size / 48);
    for (std::size_t slot = 0; slot < taken.size(); ++slot) EXPECT_EQ(taken[slot], 3 * k_page_size + 48 * slot);
    EXPECT_FALSE(slab.give(3 * k_page_size + 1));
    EXPECT_FALSE(slab.give(3 * k_page_size + 48 * taken.size())) << "what is left over at the end is no slot";
    EXPECT_TRUE(slab.give(taken[7]));
    EXPECT_FALSE(slab.give(taken[7]));
    EXPECT_EQ(slab.take(), taken[7]);
    for (const std::uint64_t offset : taken) EXPECT_TRUE(slab.give(offset));
    EXPECT_TRUE(slab.empty());
}

}  // namespace
}  // namespace harena
