// SPDX-License-Identifier: Apache-2.0
#include "harena/arena/free_ranges.hpp"

#include <algorithm>
#include <array>
#include <bit>
#include <iterator>
#include <map>
#include <random>
#include <set>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

#include "harena/base/assert.hpp"

namespace harena {
namespace {

constexpr PageRange range(std::uint64_t begin, std::uint64_t end) { return {PageIndex{begin}, PageIndex{end}}; }

/// One bool a page, and the ranges found by looking at each.
class Naive {
public:
    explicit Naive(std::uint64_t pages) : free_(pages) {}

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

private:
    std::vector<bool> free_;
};

/// Ranges in ordered sets, with every rule about neighbours written the long way.
class Reference {
public:
    void give(PageRange pages) {
        take(pages);
        std::uint64_t begin = pages.begin.value();
        std::uint64_t end = pages.end.value();
        if (const auto before = holding(begin - 1); begin > 0 && before != ends_.end()) {
            begin = before->first;
            erase(begin);
        }
        if (const auto after = ends_.find(end); after != ends_.end()) {
            end = after->second;
            erase(after->first);
        }
        insert(begin, end);
    }
    void take(PageRange pages) {
        for (;;) {
            auto found = holding(pages.begin.value());
            if (found == ends_.end()) found = ends_.lower_bound(pages.begin.value());
            if (found == ends_.end() || found->first >= pages.end.value()) return;
            const auto [begin, end] = *found;
            erase(begin);
            if (begin < pages.begin.value()) insert(begin, pages.begin.value());
            if (pages.end.value() < end) insert(pages.end.value(), end);
        }
    }
    void clear() {
        ends_.clear();
        by_size_.clear();
        pages_ = 0;
    }
    [[nodiscard]] bool all(PageRange pages) const {
        const auto found = holding(pages.begin.value());
        return found != ends_.end() && pages.end.value() <= found->second;
    }
    [[nodiscard]] bool any(PageRange pages) const {
        const auto found = ends_.lower_bound(pages.begin.value());
        return holding(pages.begin.value()) != ends_.end() ||
               (found != ends_.end() && found->first < pages.end.value());
    }
    [[nodiscard]] std::optional<PageRange> range_holding(std::uint64_t page) const {
        const auto found = holding(page);
        if (found == ends_.end()) return std::nullopt;
        return range(found->first, found->second);
    }
    [[nodiscard]] std::optional<PageRange> smallest_of_at_least(std::uint64_t count) const {
        const auto found = by_size_.lower_bound({count, 0});
        if (found == by_size_.end()) return std::nullopt;
        return range(found->second, found->second + found->first);
    }
    [[nodiscard]] std::uint64_t largest() const { return by_size_.empty() ? 0 : by_size_.rbegin()->first; }
    [[nodiscard]] std::uint64_t pages() const { return pages_; }
    [[nodiscard]] std::size_t ranges() const { return ends_.size(); }

private:
    using Ends = std::map<std::uint64_t, std::uint64_t>;

    void insert(std::uint64_t begin, std::uint64_t end) {
        ends_.emplace(begin, end);
        by_size_.emplace(end - begin, begin);
        pages_ += end - begin;
    }
    void erase(std::uint64_t begin) {
        const std::uint64_t end = ends_.at(begin);
        ends_.erase(begin);
        by_size_.erase({end - begin, begin});
        pages_ -= end - begin;
    }
    [[nodiscard]] Ends::const_iterator holding(std::uint64_t page) const {
        auto found = ends_.upper_bound(page);
        if (found == ends_.begin()) return ends_.end();
        --found;
        return page < found->second ? found : ends_.end();
    }

    Ends ends_;
    std::set<std::pair<std::uint64_t, std::uint64_t>> by_size_;
    std::uint64_t pages_ = 0;
};

class FreeRangesModel : public ::testing::TestWithParam<unsigned> {};
INSTANTIATE_TEST_SUITE_P(Seeds, FreeRangesModel, ::testing::Range(0U, 8U));

TEST_P(FreeRangesModel, behaves_like_one_bool_a_page) {
    const std::uint64_t pages = std::array<std::uint64_t, 8>{1, 2, 3, 33, 63, 64, 65, 70}[GetParam()];
    std::mt19937_64 random{GetParam()};
    FreeRanges free{PageCount{pages}};
    Naive model{pages};
    for (int step = 0; step < 3000; ++step) {
        std::uint64_t begin = random() % pages;
        const PageRange some = range(begin, std::min(pages, begin + 1 + random() % 9));
        if (model.all(some, true)) {
            free.take(some);
            model.set(some, false);
        } else if (model.all(some, false)) {
            free.give(some);
            model.set(some, true);
        } else if (random() % 2 == 0) {
            free.give_any(some);
            model.set(some, true);
        } else {
            free.take_any(some);
            model.set(some, false);
        }
        const std::vector<PageRange> expected = model.ranges();
        ASSERT_EQ(free.ranges(), expected.size());
        for (std::uint64_t count = 1; count <= pages; ++count) {
            std::optional<PageRange> best;
            for (const PageRange& candidate : expected)
                if (candidate.count() >= PageCount{count} && (!best || candidate.count() < best->count()))
                    best = candidate;
            ASSERT_EQ(free.smallest_of_at_least(PageCount{count}), best) << count;
        }
        begin = random() % pages;
        for (std::uint64_t end = begin + 1; end <= pages; ++end) {
            ASSERT_EQ(free.contains(range(begin, end)), model.all(range(begin, end), true)) << begin << " " << end;
            ASSERT_EQ(free.contains_any(range(begin, end)), !model.all(range(begin, end), false))
                << begin << " " << end;
        }
    }
}

class FreeRangesSizes : public ::testing::TestWithParam<std::uint64_t> {};
INSTANTIATE_TEST_SUITE_P(Pages, FreeRangesSizes,
                         ::testing::Values(1, 2, 64, 65, 4096, 5000, 262'144, 1'048'575, 1'048'576));

void expect_same(const FreeRanges& free, const Reference& model, PageRange some, std::uint64_t count) {
    ASSERT_EQ(free.pages().value(), model.pages());
    ASSERT_EQ(free.ranges(), model.ranges());
    ASSERT_EQ(free.largest().value(), model.largest());
    ASSERT_EQ(free.contains(some), model.all(some));
    ASSERT_EQ(free.contains_any(some), model.any(some));
    ASSERT_EQ(free.range_holding(some.begin), model.range_holding(some.begin.value()));
    ASSERT_EQ(free.smallest_of_at_least(PageCount{count}), model.smallest_of_at_least(count));
}

TEST_P(FreeRangesSizes, behaves_like_ordered_sets_of_ranges) {
    const std::uint64_t pages = GetParam();
    std::mt19937_64 random{pages};
    FreeRanges free{PageCount{pages}};
    Reference model;
    // Lengths of all magnitudes, small ones most often.
    const auto length = [&](std::uint64_t most) {
        return 1 + random() % std::min(most, std::uint64_t{1} << (random() % 21));
    };
    const auto anywhere = [&] {
        const std::uint64_t begin = random() % pages;
        return range(begin, begin + length(pages - begin));
    };
    for (int step = 0; step < 150'000; ++step) {
        PageRange some = anywhere();
        switch (random() % 8) {
            case 0:
            case 1: {  // as an allocation does
                const std::uint64_t count = length(pages);
                const auto found = free.smallest_of_at_least(PageCount{count});
                if (!found) break;
                some = PageRange::of(found->begin, PageCount{count});
                free.take(some);
                model.take(some);
                break;
            }
            case 2:
                free.take_any(some);
                model.take(some);
                break;
            case 3:
                free.give_any(some);
                model.give(some);
                break;
            case 4:  // mostly fragments
                some = PageRange::of(some.begin, PageCount{1});
                free.give_any(some);
                model.give(some);
                break;
            default:
                if (model.all(some)) {
                    free.take(some);
                    model.take(some);
                } else if (!model.any(some)) {
                    free.give(some);
                    model.give(some);
                }
                break;
        }
        if (step % 50'000 == 49'999) {
            free.clear();
            model.clear();
        }
        ASSERT_NO_FATAL_FAILURE(expect_same(free, model, some, some.count().value())) << "step " << step;
        ASSERT_NO_FATAL_FAILURE(expect_same(free, model, anywhere(), length(pages))) << "step " << step;
    }
}

TEST_P(FreeRangesSizes, an_aligned_place_is_aligned_and_free) {
    const std::uint64_t pages = GetParam();
    std::mt19937_64 random{pages};
    FreeRanges free{PageCount{pages}};
    int found = 0;
    for (int step = 0; step < 2000; ++step) {
        const std::uint64_t begin = random() % pages;
        const PageRange some = range(begin, begin + 1 + random() % (std::min<std::uint64_t>(pages - begin, 3000)));
        random() % 2 == 0 ? free.give_any(some) : free.take_any(some);
        const PageCount count{1 + random() % std::min<std::uint64_t>(pages, 700)};
        const PageCount alignment{std::uint64_t{1} << (random() % 11)};
        const auto place = free.aligned(count, alignment);
        if (place) {
            ++found;
            ASSERT_TRUE(free.contains(*place));
            ASSERT_EQ(place->count(), count);
            ASSERT_EQ(place->begin.value() % alignment.value(), 0U);
        } else {
            ASSERT_LT(free.largest().value(), count.value() + alignment.value() - 1);
            // Nothing was overlooked if there are no more ranges than it looks at.
            if (free.ranges() > FreeRanges::k_aligned_looks) continue;
            for (std::uint64_t at = 0; at + count.value() <= pages; at += alignment.value())
                ASSERT_FALSE(free.contains(PageRange::of(PageIndex{at}, count))) << at;
        }
    }
    EXPECT_GT(found, 0);
}

// As many ranges as there can be: every other page.
TEST_P(FreeRangesSizes, every_other_page_can_be_free) {
    const std::uint64_t pages = GetParam();
    FreeRanges free{PageCount{pages}};
    free.give(range(0, pages));
    for (std::uint64_t page = 1; page < pages; page += 2) free.take(range(page, page + 1));
    EXPECT_EQ(free.ranges(), (pages + 1) / 2);
    EXPECT_EQ(free.pages().value(), (pages + 1) / 2);
    EXPECT_EQ(free.largest(), PageCount{1});
    EXPECT_FALSE(free.smallest_of_at_least(PageCount{2}));
    for (std::uint64_t page = 0; page < pages; page += 2) {
        ASSERT_EQ(free.smallest_of_at_least(PageCount{1}), range(page, page + 1));
        free.take(range(page, page + 1));
    }
    EXPECT_EQ(free.ranges(), 0U);
    for (std::uint64_t page = 0; page < pages; page += 2) free.give(range(page, page + 1));
    for (std::uint64_t page = 1; page < pages; page += 2) free.give(range(page, page + 1));
    EXPECT_EQ(free.smallest_of_at_least(PageCount{pages}), range(0, pages));
    EXPECT_EQ(free.ranges(), 1U);
}

TEST(FreeRanges, an_empty_one_has_no_range) {
    const FreeRanges free{PageCount{100}};
    EXPECT_EQ(free.ranges(), 0U);
    EXPECT_EQ(free.pages(), PageCount{0});
    EXPECT_EQ(free.largest(), PageCount{0});
    EXPECT_FALSE(free.smallest_of_at_least(PageCount{1}));
    EXPECT_FALSE(free.aligned(PageCount{1}, PageCount{1}));
    EXPECT_FALSE(free.contains(range(0, 1)));
    EXPECT_FALSE(free.contains_any(range(0, 100)));
    EXPECT_FALSE(free.range_holding(PageIndex{0}));
}

TEST(FreeRanges, a_gift_joins_the_ranges_on_both_sides) {
    FreeRanges free{PageCount{100}};
    free.give(range(0, 3));
    free.give(range(5, 9));
    EXPECT_EQ(free.ranges(), 2U);
    free.give(range(3, 5));
    EXPECT_EQ(free.ranges(), 1U);
    EXPECT_TRUE(free.contains(range(0, 9)));
}

TEST(FreeRanges, empty_ranges_change_nothing) {
    FreeRanges free{PageCount{10}};
    free.give(range(4, 4));
    free.give_any(range(4, 4));
    free.take(range(4, 4));
    free.take_any(range(4, 4));
    EXPECT_EQ(free.ranges(), 0U);
    free.give(range(0, 10));
    free.give(range(4, 4));
    free.take(range(10, 10));
    EXPECT_EQ(free.ranges(), 1U);
    EXPECT_TRUE(free.contains(range(4, 4)));
    EXPECT_FALSE(free.contains_any(range(4, 4)));
}

TEST(FreeRanges, the_lowest_of_equal_ranges_is_found) {
    FreeRanges free{PageCount{100}};
    free.give(range(20, 24));
    free.give(range(10, 14));
    free.give(range(0, 9));
    EXPECT_EQ(free.smallest_of_at_least(PageCount{3}), range(10, 14));
    EXPECT_EQ(free.smallest_of_at_least(PageCount{5}), range(0, 9));
    EXPECT_FALSE(free.smallest_of_at_least(PageCount{10}));
    EXPECT_EQ(free.smallest_of_at_least(PageCount{0}), range(10, 14)) << "0 is taken for 1";
}

TEST(FreeRanges, nothing_outside_is_free) {
    FreeRanges free{PageCount{100}};
    free.give(range(0, 100));
    EXPECT_FALSE(free.contains(range(99, 101)));
    EXPECT_TRUE(free.contains_any(range(99, 101)));
    EXPECT_FALSE(free.contains(range(100, 101)));
    EXPECT_FALSE(free.contains_any(range(100, UINT64_MAX)));
    EXPECT_FALSE(free.contains(range(UINT64_MAX - 1, UINT64_MAX)));
    EXPECT_FALSE(free.range_holding(PageIndex{100}));
    EXPECT_FALSE(free.range_holding(PageIndex{UINT64_MAX}));
    EXPECT_FALSE(free.smallest_of_at_least(PageCount{101}));
    EXPECT_FALSE(free.smallest_of_at_least(PageCount{UINT64_MAX}));
    EXPECT_FALSE(free.aligned(PageCount{101}, PageCount{1}));
}

TEST(FreeRanges, an_aligned_place_is_found_in_a_range_that_just_holds_it) {
    FreeRanges free{PageCount{4096}};
    free.give(range(100, 500));  // large, but without a whole block
    free.give(range(1024, 1536));
    EXPECT_EQ(free.aligned(PageCount{512}, PageCount{512}), range(1024, 1536));
    free.give(range(2000, 3500));
    EXPECT_EQ(free.aligned(PageCount{512}, PageCount{512}), range(2048, 2560)) << "it has a place wherever it lies";
    EXPECT_EQ(free.aligned(PageCount{400}, PageCount{4}), range(1024, 1424));
}

TEST(FreeRanges, page_0_is_a_multiple_of_every_alignment) {
    FreeRanges free{PageCount{100}};
    free.give(range(0, 100));
    EXPECT_EQ(free.aligned(PageCount{60}, PageCount{512}), range(0, 60));
    EXPECT_EQ(free.aligned(PageCount{60}, PageCount{std::uint64_t{1} << 63}), range(0, 60));
    free.take(range(0, 1));
    EXPECT_FALSE(free.aligned(PageCount{60}, PageCount{std::uint64_t{1} << 63}));
    EXPECT_EQ(free.aligned(PageCount{36}, PageCount{64}), range(64, 100));
}

TEST(FreeRanges, clear_forgets_all) {
    FreeRanges free{PageCount{100}};
    free.give(range(0, 9));
    free.give(range(50, 100));
    free.clear();
    EXPECT_EQ(free.ranges(), 0U);
    EXPECT_EQ(free.pages(), PageCount{0});
    EXPECT_FALSE(free.smallest_of_at_least(PageCount{1}));
    EXPECT_FALSE(free.contains_any(range(0, 100)));
    free.give(range(0, 9));
    EXPECT_EQ(free.ranges(), 1U);
    EXPECT_EQ(free.smallest_of_at_least(PageCount{1}), range(0, 9));
}

TEST(FreeRangesDeath, taking_what_is_not_free_and_giving_what_is_are_bugs_of_the_caller) {
    if (!k_debug_checks) GTEST_SKIP() << "preconditions are checked in debug builds";
    FreeRanges free{PageCount{100}};
    free.give(range(10, 20));
    free.give(range(30, 40));
    EXPECT_DEATH(free.take(range(19, 21)), "free range");
    EXPECT_DEATH(free.take(range(10, 40)), "free range");
    EXPECT_DEATH(free.give(range(19, 21)), "free already");
    EXPECT_DEATH(free.give(range(0, 100)), "free already");
    EXPECT_DEATH(free.give(range(99, 101)), "free already");
    EXPECT_DEATH(free.give_any(range(99, 101)), "inside");
    EXPECT_DEATH(free.take_any(range(99, 101)), "inside");
}

}  // namespace
}  // namespace harena
