// SPDX-License-Identifier: Apache-2.0
#include "harena/vm/area_index.hpp"

#include <cstdint>
#include <random>
#include <vector>

#include <gtest/gtest.h>

namespace harena {
namespace {

void set(AreaIndex& index, std::uint64_t begin, std::uint64_t end, AreaIndex::Number area) {
    ASSERT_TRUE(index.prepare(VmPage{begin}, VmPage{end}));
    index.set(VmPage{begin}, VmPage{end}, area);
}

TEST(AreaIndex, finds_what_was_set_and_nothing_beside_it) {
    AreaIndex index{1U << 20};
    EXPECT_EQ(index.find(VmPage{5}), AreaIndex::k_none);
    set(index, 5, 8, 3);
    EXPECT_EQ(index.find(VmPage{4}), AreaIndex::k_none);
    EXPECT_EQ(index.find(VmPage{5}), 3U);
    EXPECT_EQ(index.find(VmPage{7}), 3U);
    EXPECT_EQ(index.find(VmPage{8}), AreaIndex::k_none);
    EXPECT_EQ(index.find(VmPage{1U << 20}), AreaIndex::k_none);
    EXPECT_EQ(index.find(VmPage{~0ULL}), AreaIndex::k_none);
}

TEST(AreaIndex, ranges_of_many_gigabytes_take_no_table_of_pages) {
    constexpr std::uint64_t k_gib_pages = 1U << 18;
    AreaIndex index{8 * k_gib_pages};
    set(index, k_gib_pages, 3 * k_gib_pages, 1);
    set(index, 3 * k_gib_pages, 4 * k_gib_pages + 513, 2);  // a large part, a slot of 2 MiB, a page
    for (const std::uint64_t page : {k_gib_pages, 2 * k_gib_pages, 3 * k_gib_pages - 1})
        EXPECT_EQ(index.find(VmPage{page}), 1U) << page;
    for (const std::uint64_t page : {3 * k_gib_pages, 4 * k_gib_pages - 1, 4 * k_gib_pages, 4 * k_gib_pages + 512})
        EXPECT_EQ(index.find(VmPage{page}), 2U) << page;
    EXPECT_EQ(index.find(VmPage{4 * k_gib_pages + 513}), AreaIndex::k_none);
    index.set(VmPage{k_gib_pages}, VmPage{3 * k_gib_pages}, AreaIndex::k_none);
    EXPECT_EQ(index.find(VmPage{2 * k_gib_pages}), AreaIndex::k_none);
    set(index, 2 * k_gib_pages + 7, 2 * k_gib_pages + 9, 5);  // small ones where a large one was
    EXPECT_EQ(index.find(VmPage{2 * k_gib_pages + 8}), 5U);
    EXPECT_EQ(index.find(VmPage{2 * k_gib_pages + 9}), AreaIndex::k_none);
    index.set(VmPage{2 * k_gib_pages + 7}, VmPage{2 * k_gib_pages + 9}, AreaIndex::k_none);
    set(index, 2 * k_gib_pages, 3 * k_gib_pages, 6);  // and a large one again
    for (const std::uint64_t page : {2 * k_gib_pages, 2 * k_gib_pages + 8, 3 * k_gib_pages - 1})
        EXPECT_EQ(index.find(VmPage{page}), 6U) << page;
}

TEST(AreaIndex, is_as_an_array_of_pages) {
    constexpr std::uint64_t k_pages = 3 * 512 * 512 + 700;
    AreaIndex index{k_pages};
    std::vector<AreaIndex::Number> model(k_pages);
    struct Range {
        std::uint64_t begin;
        std::uint64_t end;
    };
    std::vector<Range> live(1);
    std::mt19937 random{11};
    for (int i = 0; i < 3000; ++i) {
        const std::uint64_t length = 1 + random() % (random() % 8 == 0 ? 300'000 : 1500);
        const std::uint64_t begin = random() % k_pages;
        const std::uint64_t end = std::min(k_pages, begin + length);
        bool free = true;
        for (std::uint64_t page = begin; page < end && free; ++page) free = model[page] == 0;
        if (free) {
            live.push_back({begin, end});
            set(index, begin, end, static_cast<AreaIndex::Number>(live.size() - 1));
            std::fill(model.begin() + static_cast<std::ptrdiff_t>(begin),
                      model.begin() + static_cast<std::ptrdiff_t>(end),
                      static_cast<AreaIndex::Number>(live.size() - 1));
        } else if (model[begin] != 0) {
            const Range gone = live[model[begin]];
            index.set(VmPage{gone.begin}, VmPage{gone.end}, AreaIndex::k_none);
            std::fill(model.begin() + static_cast<std::ptrdiff_t>(gone.begin),
                      model.begin() + static_cast<std::ptrdiff_t>(gone.end), 0U);
        }
        for (int look = 0; look < 50; ++look) {
            const std::uint64_t page = random() % k_pages;
            ASSERT_EQ(index.find(VmPage{page}), model[page]) << page;
        }
    }
    for (std::uint64_t page = 0; page < k_pages; ++page) ASSERT_EQ(index.find(VmPage{page}), model[page]) << page;
}

}  // namespace
}  // namespace harena
