// SPDX-License-Identifier: Apache-2.0
#include "harena/exec/exception_table.hpp"

#include <atomic>
#include <thread>
#include <vector>

#include <gtest/gtest.h>

namespace harena {
namespace {

TEST(ExceptionTable, finds_the_fixup_of_the_range_that_holds_the_instruction) {
    ExceptionTable table;
    ASSERT_TRUE(table.add({.begin = 0x1000, .end = 0x1010, .fixup = 0x9000}));
    ASSERT_TRUE(table.add({.begin = 0x2000, .end = 0x2001, .fixup = 0x9100}));
    EXPECT_EQ(table.find_fixup(0x0fff), 0U);
    EXPECT_EQ(table.find_fixup(0x1000), 0x9000U);
    EXPECT_EQ(table.find_fixup(0x100f), 0x9000U);
    EXPECT_EQ(table.find_fixup(0x1010), 0U);
    EXPECT_EQ(table.find_fixup(0x2000), 0x9100U);
}

TEST(ExceptionTable, a_removed_range_is_not_found_and_its_slot_serves_again) {
    ExceptionTable table;
    const auto first = table.add({.begin = 0x1000, .end = 0x1010, .fixup = 0x9000});
    ASSERT_TRUE(first);
    table.remove(*first);
    EXPECT_EQ(table.find_fixup(0x1000), 0U);
    const auto second = table.add({.begin = 0x3000, .end = 0x3010, .fixup = 0x9200});
    ASSERT_TRUE(second);
    EXPECT_EQ(*first, *second);
    EXPECT_EQ(table.find_fixup(0x3008), 0x9200U);
}

TEST(ExceptionTable, holds_more_ranges_than_one_chunk) {
    ExceptionTable table;
    for (std::uintptr_t i = 1; i <= 1000; ++i)
        ASSERT_TRUE(table.add({.begin = i * 0x1000, .end = i * 0x1000 + 8, .fixup = i}));
    for (std::uintptr_t i = 1; i <= 1000; ++i) EXPECT_EQ(table.find_fixup(i * 0x1000 + 7), i);
}

// A reader never sees half of one record and half of another, and always sees a record that stays.
TEST(ExceptionTable, readers_beside_writers_see_whole_ranges_only) {
    ExceptionTable table;
    ASSERT_TRUE(table.add({.begin = 1, .end = 2, .fixup = 77}));
    std::atomic<bool> stop{false};
    std::thread writer{[&] {
        for (std::uintptr_t i = 0; i < 20'000; ++i) {
            const std::uintptr_t begin = (i % 50 + 1) * 0x1000;
            const auto handle = table.add({.begin = begin, .end = begin + 0x1000, .fixup = begin + 1});
            table.remove(*handle);
        }
        stop = true;
    }};
    while (!stop) {
        EXPECT_EQ(table.find_fixup(1), 77U);
        for (std::uintptr_t page = 1; page <= 50; ++page) {
            const std::uintptr_t fixup = table.find_fixup(page * 0x1000 + 5);
            EXPECT_TRUE(fixup == 0 || fixup == page * 0x1000 + 1) << fixup;
        }
    }
    writer.join();
}

}  // namespace
}  // namespace harena
