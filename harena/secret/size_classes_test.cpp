// SPDX-License-Identifier: Apache-2.0
#include "harena/secret/size_classes.hpp"

#include <gtest/gtest.h>

namespace harena {
namespace {

TEST(SizeClasses, slots_of_a_page_fit_and_are_aligned) {
    for (const SizeClass& one : k_size_classes) {
        EXPECT_LE(k_slab_header + std::size_t{one.slots} * one.slot_bytes, k_page_size);
        EXPECT_EQ(one.slot_bytes % 16, 0U);
        EXPECT_LE(one.slots, k_most_slots);
        EXPECT_GE(one.kept_by_threads(), 2U);
    }
}

TEST(SizeClasses, secrets_of_32_bytes_take_48_and_fill_the_page) {
    const SizeClass& keys = k_size_classes[class_for(32)];
    EXPECT_EQ(keys.slot_bytes, 48U);
    EXPECT_EQ(k_slab_header + std::size_t{keys.slots} * keys.slot_bytes, k_page_size);
}

TEST(SizeClasses, class_of_a_size_is_the_smallest_with_room) {
    for (std::size_t bytes = 1; bytes <= k_largest_slot; ++bytes) {
        const ClassIndex index = class_for(bytes);
        ASSERT_GE(k_size_classes[index].room(), bytes);
        if (index > 0) {
            ASSERT_LT(k_size_classes[index - 1].room(), bytes);
        }
    }
}

TEST(SizeClasses, larger_ones_have_more_room_and_waste_a_third_at_most) {
    for (std::size_t i = 1; i < k_classes; ++i) {
        EXPECT_GT(k_size_classes[i].room(), k_size_classes[i - 1].room());
        if (i > 1) {
            EXPECT_LE(k_size_classes[i].slot_bytes * 2, k_size_classes[i - 1].slot_bytes * 3);
        }
    }
}

TEST(SizeClasses, division_by_multiplication_is_exact_inside_a_page) {
    for (const SizeClass& one : k_size_classes)
        for (std::uint64_t x = 0; x < k_page_size; ++x)
            ASSERT_EQ(x * one.inverse >> k_inverse_shift, x / one.slot_bytes);
}

}  // namespace
}  // namespace harena
