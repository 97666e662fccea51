// SPDX-License-Identifier: Apache-2.0
#include "harena/arena/free_ranges.hpp"

#include <random>
#include <vector>

#include <gtest/gtest.h>

namespace harena {
namespace {

constexpr PageRange range(std::uint64_t begin, std::uint64_t end) { return {PageIndex{begin}, PageIndex{end}}; }

/// One bool a page.
class Naive {
public:
    explicit Naive(std::size_t pages) : free_(pages) {}

    void set(PageRange pages, bool free) {
        for (std::uint64_t page = pages.begin.value(); page < pages.end.value(); ++page) free_[page] = free;
    }
    [[nodiscard]] bool all(PageRange pages, bool free) const {
        for (std::uint64_t page = pages.begin.value(); page < pages.end.value(); ++page)
            if (free_[page] != free) return false;
        return true;
    }
    [[nodiscard]] std::vector<PageRange> ranges() const {
        std::vector<PageRange> found;
        for (std::uint64_t page = 0; page < free_.size(); ++page) {
            if (!free_[page]) continue;
            if (!found.empty() && found.back().end == PageIndex{page}) {
                found.back().end = PageIndex{page + 1};
            } else {
                found.push_back(range(page, page + 1));
            }
        }
        return found;
    }
    [[nodiscard]] std::optional<PageRange> smallest_of_at_least(std::uint64_t count) const {
        std::optional<PageRange> best;
        for (const PageRange& candidate : ranges())
            if (candidate.count() >= PageCount{count} && (!best || candidate.count() < best->count())) best = candidate;
        return best;
    }

private:
    std::vector<bool> free_;
};

class FreeRangesModel : public ::testing::TestWithParam<unsigned> {};
INSTANTIATE_TEST_SUITE_P(Seeds, FreeRangesModel, ::testing::Range(0U, 8U));

TEST_P(FreeRangesModel, behaves_like_one_bool_a_page) {
    constexpr std::uint64_t k_pages = 64;
    std::mt19937_64 random{GetParam()};
    FreeRanges ranges;
    Naive model{k_pages};
    for (int step = 0; step < 3000; ++step) {
        std::uint64_t begin = random() % k_pages;
        const std::uint64_t end = std::min(k_pages, begin + 1 + random() % 9);
        const PageRange pages = range(begin, end);
        if (model.all(pages, true)) {
            ASSERT_TRUE(ranges.contains(pages));
            ranges.take(pages);
            model.set(pages, false);
        } else if (model.all(pages, false)) {
            ranges.give(pages);
            model.set(pages, true);
        }
        ASSERT_EQ(ranges.ranges(), model.ranges().size());
        for (std::uint64_t count = 1; count <= k_pages; ++count)
            ASSERT_EQ(ranges.smallest_of_at_least(PageCount{count}), model.smallest_of_at_least(count)) << count;
        begin = random() % k_pages;
        for (std::uint64_t last = begin + 1; last <= k_pages; ++last)
            ASSERT_EQ(ranges.contains(range(begin, last)), model.all(range(begin, last), true)) << begin << " " << last;
    }
}

TEST(FreeRanges, an_empty_one_has_no_range) {
    const FreeRanges ranges;
    EXPECT_EQ(ranges.ranges(), 0U);
    EXPECT_FALSE(ranges.smallest_of_at_least(PageCount{1}));
    EXPECT_FALSE(ranges.contains(range(0, 1)));
}

TEST(FreeRanges, a_gift_joins_the_ranges_on_both_sides) {
    FreeRanges ranges;
    ranges.give(range(0, 3));
    ranges.give(range(5, 9));
    EXPECT_EQ(ranges.ranges(), 2U);
    ranges.give(range(3, 5));
    EXPECT_EQ(ranges.ranges(), 1U);
    EXPECT_TRUE(ranges.contains(range(0, 9)));
}

TEST(FreeRanges, giving_nothing_changes_nothing) {
    FreeRanges ranges;
    ranges.give(range(4, 4));
    EXPECT_EQ(ranges.ranges(), 0U);
}

TEST(FreeRanges, the_lowest_of_equal_ranges_is_found) {
    FreeRanges ranges;
    ranges.give(range(20, 24));
    ranges.give(range(10, 14));
    ranges.give(range(0, 9));
    EXPECT_EQ(ranges.smallest_of_at_least(PageCount{3}), range(10, 14));
    EXPECT_EQ(ranges.smallest_of_at_least(PageCount{5}), range(0, 9));
    EXPECT_FALSE(ranges.smallest_of_at_least(PageCount{10}));
}

TEST(FreeRanges, clear_forgets_all) {
    FreeRanges ranges;
    ranges.give(range(0, 9));
    ranges.clear();
    EXPECT_EQ(ranges.ranges(), 0U);
    EXPECT_FALSE(ranges.smallest_of_at_least(PageCount{1}));
    ranges.give(range(0, 9));
    EXPECT_EQ(ranges.ranges(), 1U);
}

}  // namespace
}  // namespace harena
