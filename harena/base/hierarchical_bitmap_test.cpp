// SPDX-License-Identifier: Apache-2.0
#include "harena/base/hierarchical_bitmap.hpp"

#include <algorithm>
#include <cstdint>
#include <iterator>
#include <random>
#include <set>

#include <gtest/gtest.h>

#include "harena/base/assert.hpp"

namespace harena {
namespace {

/// The set bits.
class Model {
public:
    explicit Model(std::size_t size) : size_{size} {}

    void set(std::size_t bit) { bits_.insert(bit); }
    void clear(std::size_t bit) { bits_.erase(bit); }
    void clear_all() { bits_.clear(); }
    [[nodiscard]] bool test(std::size_t bit) const { return bits_.contains(bit); }
    [[nodiscard]] std::size_t next(std::size_t from) const {
        const auto found = bits_.lower_bound(from);
        return found == bits_.end() ? size_ : *found;
    }
    [[nodiscard]] std::size_t previous(std::size_t from) const {
        const auto after = bits_.upper_bound(from);
        return after == bits_.begin() ? size_ : *std::prev(after);
    }

private:
    std::size_t size_;
    std::set<std::size_t> bits_;
};

// One word, the edges of one, two, three and four levels, and a fifth.
class HierarchicalBitmapSizes : public ::testing::TestWithParam<std::size_t> {};
INSTANTIATE_TEST_SUITE_P(Edges, HierarchicalBitmapSizes,
                         ::testing::Values(1, 2, 63, 64, 65, 4095, 4096, 4097, 262'144, 262'145, 1'048'576, 16'777'216,
                                           22'020'096));

void expect_same_near(const HierarchicalBitmap& bitmap, const Model& model, std::size_t bit) {
    for (std::size_t at = bit - std::min<std::size_t>(bit, 2); at < std::min(bit + 3, bitmap.size()); ++at) {
        ASSERT_EQ(bitmap.test(at), model.test(at)) << at;
        ASSERT_EQ(bitmap.find_next_set(at), model.next(at)) << at;
        ASSERT_EQ(bitmap.find_previous_set(at), model.previous(at)) << at;
    }
}

TEST_P(HierarchicalBitmapSizes, behaves_like_an_ordered_set_of_numbers) {
    const std::size_t size = GetParam();
    std::mt19937_64 random{size};
    HierarchicalBitmap bitmap{size};
    Model model{size};
    // Ever smaller parts of it, so that words fill up and run empty, far from each other and close.
    for (std::size_t part = size; part != 0; part /= 16) {
        const std::size_t begin = random() % (size - part + 1);
        for (int step = 0; step < 4000; ++step) {
            const std::size_t bit = begin + random() % part;
            if (random() % 2 == 0) {
                bitmap.set(bit);
                model.set(bit);
            } else {
                // The one that is there, so that sparse parts run empty too.
                const std::size_t there = std::min(model.next(bit), size - 1);
                bitmap.clear(there);
                model.clear(there);
            }
            if (step % 500 == 499) {
                bitmap.clear_all();
                model.clear_all();
            }
            ASSERT_NO_FATAL_FAILURE(expect_same_near(bitmap, model, bit)) << "step " << step;
            ASSERT_NO_FATAL_FAILURE(expect_same_near(bitmap, model, random() % size)) << "step " << step;
        }
    }
}

TEST_P(HierarchicalBitmapSizes, a_single_bit_is_found_from_both_ends) {
    const std::size_t size = GetParam();
    HierarchicalBitmap bitmap{size};
    for (std::size_t bit = 0; bit < size; bit += 1 + bit * 7 / 5) {
        bitmap.set(bit);
        EXPECT_EQ(bitmap.find_next_set(0), bit);
        EXPECT_EQ(bitmap.find_next_set(bit), bit);
        EXPECT_EQ(bitmap.find_next_set(bit + 1), size);
        EXPECT_EQ(bitmap.find_previous_set(size - 1), bit);
        EXPECT_EQ(bitmap.find_previous_set(bit), bit);
        if (bit > 0) {
            EXPECT_EQ(bitmap.find_previous_set(bit - 1), size);
        }
        bitmap.clear(bit);
        EXPECT_EQ(bitmap.find_next_set(0), size);
        EXPECT_EQ(bitmap.find_previous_set(size - 1), size);
    }
}

TEST_P(HierarchicalBitmapSizes, a_search_may_begin_past_the_end) {
    const std::size_t size = GetParam();
    HierarchicalBitmap bitmap{size};
    bitmap.set(size - 1);
    for (const std::size_t from : {size, size + 1, size + 64, SIZE_MAX}) {
        EXPECT_EQ(bitmap.find_next_set(from), size);
        EXPECT_EQ(bitmap.find_previous_set(from), size - 1);
    }
}

TEST(HierarchicalBitmap, setting_and_clearing_twice_is_setting_and_clearing_once) {
    HierarchicalBitmap bitmap{5000};
    bitmap.set(4999);
    bitmap.set(4999);
    EXPECT_EQ(bitmap.find_next_set(0), 4999U);
    bitmap.clear(4999);
    bitmap.clear(4999);
    bitmap.clear(17);
    EXPECT_EQ(bitmap.find_next_set(0), bitmap.size());
}

TEST(HierarchicalBitmap, one_without_bits_finds_none) {
    HierarchicalBitmap bitmap{0};
    bitmap.clear_all();
    EXPECT_EQ(bitmap.find_next_set(0), 0U);
    EXPECT_EQ(bitmap.find_previous_set(0), 0U);
}

TEST(HierarchicalBitmapDeath, a_bit_past_the_end_is_a_bug_of_the_caller) {
    if (!k_debug_checks) GTEST_SKIP() << "preconditions are checked in debug builds";
    HierarchicalBitmap bitmap{100};
    EXPECT_DEATH(bitmap.set(100), "inside the bitmap");
    EXPECT_DEATH(bitmap.clear(128), "inside the bitmap");
}

}  // namespace
}  // namespace harena
