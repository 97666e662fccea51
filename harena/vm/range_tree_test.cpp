// SPDX-License-Identifier: Apache-2.0
#include "harena/vm/range_tree.hpp"

#include <cstdint>
#include <map>
#include <random>
#include <vector>

#include <gtest/gtest.h>

namespace harena {
namespace {

/// The obvious one: free ranges in order, searched from the begin.
class Naive {
public:
    explicit Naive(std::uint64_t pages) { free_[0] = pages; }
    std::optional<std::uint64_t> take(std::uint64_t pages, std::uint64_t alignment) {
        for (const auto& [begin, length] : free_) {
            const std::uint64_t first = (begin + alignment - 1) / alignment * alignment;
            if (first + pages > begin + length) continue;
            const std::uint64_t end = begin + length;
            const std::uint64_t at = begin;
            free_.erase(at);
            if (first > at) free_[at] = first - at;
            if (first + pages < end) free_[first + pages] = end - first - pages;
            return first;
        }
        return std::nullopt;
    }
    void give(std::uint64_t first, std::uint64_t pages) {
        auto after = free_.lower_bound(first);
        if (after != free_.end() && after->first == first + pages) {
            pages += after->second;
            after = free_.erase(after);
        }
        if (after != free_.begin()) {
            const auto before = std::prev(after);
            if (before->first + before->second == first) {
                before->second += pages;
                return;
            }
        }
        free_[first] = pages;
    }
    [[nodiscard]] std::size_t ranges() const { return free_.size(); }
    [[nodiscard]] std::uint64_t pages() const {
        std::uint64_t sum = 0;
        for (const auto& [begin, length] : free_) sum += length;
        return sum;
    }
    [[nodiscard]] std::uint64_t largest() const {
        std::uint64_t most = 0;
        for (const auto& [begin, length] : free_) most = std::max(most, length);
        return most;
    }

private:
    std::map<std::uint64_t, std::uint64_t> free_;
};

TEST(RangeTree, takes_the_lowest_range_that_is_large_enough) {
    RangeTree tree{100};
    EXPECT_EQ(tree.take(10), VmPage{0});
    EXPECT_EQ(tree.take(10), VmPage{10});
    EXPECT_EQ(tree.take(10), VmPage{20});
    tree.give(VmPage{0}, 5);
    tree.give(VmPage{10}, 10);
    EXPECT_EQ(tree.take(8), VmPage{10});
    EXPECT_EQ(tree.take(5), VmPage{0});
    EXPECT_FALSE(tree.take(71));
    EXPECT_EQ(tree.take(70), VmPage{30});
    EXPECT_EQ(tree.free_pages(), 2U);  // 18, 19
    EXPECT_EQ(tree.largest(), 2U);
}

TEST(RangeTree, aligned_ranges_leave_what_is_before_them) {
    RangeTree tree{1024};
    ASSERT_EQ(tree.take(3), VmPage{0});
    EXPECT_EQ(tree.take(100, 64), VmPage{64});
    EXPECT_EQ(tree.take(61), VmPage{3});
    EXPECT_FALSE(tree.take(10, 1024));
}

TEST(RangeTree, all_that_comes_back_is_one_range_again) {
    RangeTree tree{1000};
    for (int i = 0; i < 100; ++i) ASSERT_TRUE(tree.take(10));
    EXPECT_EQ(tree.ranges(), 0U);
    for (const int offset : {0, 5, 2, 7, 1, 9, 4, 3, 6, 8})
        for (int i = 0; i < 10; ++i) tree.give(VmPage{static_cast<std::uint64_t>(100 * i + 10 * offset)}, 10);
    EXPECT_EQ(tree.ranges(), 1U);
    EXPECT_EQ(tree.take(1000), VmPage{0});
}

TEST(RangeTree, is_as_the_obvious_one_in_a_million_operations) {
    constexpr std::uint64_t k_pages = 20'000;
    RangeTree tree{k_pages};
    Naive naive{k_pages};
    std::mt19937 random{7};
    std::vector<std::pair<std::uint64_t, std::uint64_t>> taken;
    for (int i = 0; i < 1'000'000; ++i) {
        if (random() % 100 < 52) {
            const std::uint64_t pages = 1 + (random() % 8 == 0 ? random() % 700 : random() % 20);
            const std::uint64_t alignment = random() % 10 == 0 ? 1U << random() % 8 : 1;
            const auto first = tree.take(pages, alignment);
            const auto expected = naive.take(pages, alignment);
            ASSERT_EQ(first.has_value(), expected.has_value()) << i;
            if (!first) continue;
            ASSERT_EQ(first->value(), *expected) << i;
            taken.emplace_back(*expected, pages);
        } else if (!taken.empty()) {
            std::swap(taken[random() % taken.size()], taken.back());
            tree.give(VmPage{taken.back().first}, taken.back().second);
            naive.give(taken.back().first, taken.back().second);
            taken.pop_back();
        }
        if (i % 1000 == 0) {
            ASSERT_EQ(tree.ranges(), naive.ranges());
            ASSERT_EQ(tree.free_pages(), naive.pages());
            ASSERT_EQ(tree.largest(), naive.largest());
        }
    }
}

TEST(RangeTree, of_the_lowest_few_the_one_that_leaves_the_least_is_taken) {
    RangeTree tree{100};
    ASSERT_TRUE(tree.take(100));
    tree.give(VmPage{0}, 10);
    ASSERT_EQ(tree.take(10), VmPage{0});  // what a part was given of is given whole again
    tree.give(VmPage{0}, 10);
    tree.give(VmPage{20}, 4);
    tree.give(VmPage{40}, 5);
    EXPECT_EQ(tree.take(4, 1, 3), VmPage{20});
    EXPECT_EQ(tree.take(4, 1, 1), VmPage{0});
    EXPECT_EQ(tree.take(4, 1, 9), VmPage{40});
    EXPECT_EQ(tree.take(4, 4, 9), VmPage{4});
    EXPECT_FALSE(tree.take(4, 1, 9));
}

TEST(RangeTree, what_is_free_can_be_taken_where_it_is) {
    RangeTree tree{100};
    tree.take_at(VmPage{20}, 30);
    EXPECT_EQ(tree.free_pages(), 70U);
    EXPECT_EQ(tree.free_before(VmPage{20}), 20U);
    EXPECT_EQ(tree.free_from(VmPage{50}), 50U);
    EXPECT_EQ(tree.free_before(VmPage{50}), 0U);
    EXPECT_EQ(tree.free_from(VmPage{20}), 0U);
    EXPECT_EQ(tree.free_before(VmPage{0}), 0U);
    tree.take_at(VmPage{0}, 20);
    tree.give(VmPage{20}, 30);
    EXPECT_EQ(tree.largest(), 80U);
    tree.give(VmPage{0}, 20);
    EXPECT_EQ(tree.ranges(), 1U);
}

}  // namespace
}  // namespace harena
