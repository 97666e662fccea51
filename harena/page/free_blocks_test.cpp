// SPDX-License-Identifier: Apache-2.0
#include "harena/page/free_blocks.hpp"

#include <algorithm>
#include <array>
#include <cstdint>
#include <optional>
#include <random>
#include <vector>

#include <gtest/gtest.h>

namespace harena {
namespace {

constexpr Order order(unsigned k) { return Order{static_cast<std::uint8_t>(k)}; }

/// "first order zero" of a block.
std::array<std::uint32_t, 3> values(const FreeBlock& block) {
    return {block.first.value(), block.order.value(), block.zero ? 1U : 0U};
}

class FreeBlocksTest : public ::testing::Test {
protected:
    PageArray pages_ = PageArray::create(4 * 1024).value();
    FreeBlocks blocks_{pages_, 7};
};

TEST_F(FreeBlocksTest, an_empty_one_has_no_block) {
    for (unsigned k = 0; k < k_orders; ++k) {
        EXPECT_FALSE(blocks_.take(order(k)));
        EXPECT_FALSE(blocks_.take_at(Pfn{0}, order(k)));
        EXPECT_EQ(blocks_.blocks(order(k)), 0U);
    }
    EXPECT_FALSE(blocks_.take_largest());
    EXPECT_FALSE(blocks_.at(Pfn{0}));
    EXPECT_EQ(blocks_.pages(), 0U);
}

TEST_F(FreeBlocksTest, a_block_is_split_in_halves_down_to_the_order_wanted) {
    EXPECT_EQ(blocks_.give({.first = Pfn{1024}, .order = k_max_order}), k_max_order);
    const auto page = blocks_.take(Order{});
    ASSERT_TRUE(page);
    EXPECT_EQ(page->order, Order{});
    EXPECT_EQ(blocks_.pages(), 1023U);
    for (unsigned k = 0; k < 10; ++k) EXPECT_EQ(blocks_.blocks(order(k)), 1U) << k;
    EXPECT_EQ(blocks_.blocks(k_max_order), 0U);
    EXPECT_EQ(pages_[page->first].load().state, BlockState::cached);
    EXPECT_EQ(pages_[page->first].load().order, Order{});

    EXPECT_EQ(blocks_.give(*page), k_max_order) << "and all merge again";
    EXPECT_EQ(blocks_.pages(), 1024U);
    EXPECT_EQ(values(*blocks_.at(Pfn{1024})), values({.first = Pfn{1024}, .order = k_max_order}));
}

TEST_F(FreeBlocksTest, the_smallest_block_that_is_large_enough_is_split) {
    blocks_.give({.first = Pfn{0}, .order = k_max_order});
    blocks_.give({.first = Pfn{1024}, .order = order(5)});
    blocks_.give({.first = Pfn{2048}, .order = order(3)});
    EXPECT_EQ(blocks_.take(order(4))->first.value() & ~31U, 1024U);
    EXPECT_EQ(blocks_.blocks(k_max_order), 1U);
    EXPECT_EQ(blocks_.blocks(order(3)), 1U);
    EXPECT_FALSE(blocks_.at(Pfn{2048})->zero);
}

TEST_F(FreeBlocksTest, blocks_that_adjoin_but_are_no_buddies_stay_apart) {
    EXPECT_EQ(blocks_.give({.first = Pfn{4}, .order = order(2)}), order(2));
    EXPECT_EQ(blocks_.give({.first = Pfn{8}, .order = order(2)}), order(2));  // the buddy of 12
    EXPECT_EQ(blocks_.give({.first = Pfn{2}, .order = order(1)}), order(1));
    EXPECT_EQ(blocks_.blocks(order(2)), 2U);
    EXPECT_EQ(blocks_.give({.first = Pfn{12}, .order = order(2)}), order(3));
    EXPECT_EQ(blocks_.give({.first = Pfn{0}, .order = order(1)}), order(4));
    EXPECT_EQ(blocks_.pages(), 16U);
}

TEST_F(FreeBlocksTest, blocks_of_the_largest_order_do_not_merge) {
    EXPECT_EQ(blocks_.give({.first = Pfn{0}, .order = k_max_order}), k_max_order);
    EXPECT_EQ(blocks_.give({.first = Pfn{1024}, .order = k_max_order}), k_max_order);
    EXPECT_EQ(blocks_.blocks(k_max_order), 2U);
}

TEST_F(FreeBlocksTest, a_merged_block_is_zero_iff_both_halves_are) {
    for (const bool low : {false, true}) {
        for (const bool high : {false, true}) {
            for (const bool low_first : {false, true}) {
                const FreeBlock halves[] = {{.first = Pfn{0}, .order = order(3), .zero = low},
                                            {.first = Pfn{8}, .order = order(3), .zero = high}};
                blocks_.give(halves[low_first ? 0 : 1]);
                EXPECT_EQ(blocks_.give(halves[low_first ? 1 : 0]), order(4));
                EXPECT_EQ(blocks_.at(Pfn{0})->zero, low && high);
                EXPECT_EQ(blocks_.take(order(4))->zero, low && high);
            }
        }
    }
}

TEST_F(FreeBlocksTest, the_parts_of_a_zero_block_are_zero) {
    blocks_.give({.first = Pfn{0}, .order = k_max_order, .zero = true});
    EXPECT_TRUE(blocks_.take_at(Pfn{600}, order(3))->zero);
    EXPECT_TRUE(pages_[Pfn{600}].load().zero);
    while (const auto block = blocks_.take_largest()) EXPECT_TRUE(block->zero) << block->first.value();
}

TEST_F(FreeBlocksTest, take_at_takes_exactly_that_block_out_of_the_one_it_lies_in) {
    for (unsigned k = 0; k <= 10; ++k) {
        for (std::uint32_t first = 1024; first < 2048; first += pages_of(order(k))) {
            blocks_.give({.first = Pfn{1024}, .order = k_max_order});
            const auto block = blocks_.take_at(Pfn{first}, order(k));
            ASSERT_TRUE(block) << first << " " << k;
            ASSERT_EQ(values(*block), values({.first = Pfn{first}, .order = order(k)}));
            ASSERT_EQ(blocks_.pages(), 1024 - pages_of(order(k)));
            for (unsigned j = 0; j < k_orders; ++j)
                ASSERT_EQ(blocks_.blocks(order(j)), k <= j && j < 10 ? 1U : 0U) << first << " " << k << " " << j;
            ASSERT_FALSE(blocks_.take_at(Pfn{first}, order(k))) << "it is not there twice";
            ASSERT_FALSE(blocks_.take_at(Pfn{1024}, k_max_order)) << "nor is what it is a part of";
            ASSERT_EQ(blocks_.give(*block), k_max_order);
            ASSERT_TRUE(blocks_.take_largest());
        }
    }
}

TEST_F(FreeBlocksTest, take_at_has_nothing_where_only_a_part_is_free) {
    blocks_.give({.first = Pfn{16}, .order = order(3)});
    EXPECT_FALSE(blocks_.take_at(Pfn{16}, order(4)));
    EXPECT_FALSE(blocks_.take_at(Pfn{24}, order(0)));
    EXPECT_FALSE(blocks_.take_at(Pfn{0}, k_max_order));
    EXPECT_EQ(blocks_.pages(), 8U);
}

TEST_F(FreeBlocksTest, take_largest_takes_whole_blocks_from_the_largest_down) {
    for (const unsigned k : {3U, 9U, 0U, 6U})
        blocks_.give({.first = Pfn{1024 + pages_of(order(k))}, .order = order(k)});
    for (const unsigned k : {9U, 6U, 3U, 0U}) {
        const auto block = blocks_.take_largest();
        ASSERT_TRUE(block);
        EXPECT_EQ(values(*block), values({.first = Pfn{1024 + pages_of(order(k))}, .order = order(k)}));
    }
    EXPECT_FALSE(blocks_.take_largest());
    EXPECT_EQ(blocks_.pages(), 0U);
}

TEST_F(FreeBlocksTest, two_over_one_array_never_merge_with_each_other) {
    FreeBlocks others{pages_, 8};
    for (std::uint32_t i = 0; i < 1024; ++i)
        (i % 2 == 0 ? blocks_ : others).give({.first = Pfn{i}, .order = Order{}, .zero = true});
    EXPECT_EQ(blocks_.blocks(Order{}), 512U);
    EXPECT_EQ(others.blocks(Order{}), 512U);
    EXPECT_FALSE(others.at(Pfn{0}));
    EXPECT_FALSE(others.take_at(Pfn{0}, Order{}));
    EXPECT_FALSE(blocks_.take_at(Pfn{0}, order(1)));
    // They merge once they are in one.
    while (const auto block = others.take(Order{})) blocks_.give(*block);
    EXPECT_EQ(blocks_.blocks(k_max_order), 1U);
    EXPECT_EQ(blocks_.pages(), 1024U);
    EXPECT_TRUE(blocks_.at(Pfn{0})->zero);
}

TEST_F(FreeBlocksTest, a_buddy_past_the_end_of_the_array_is_not_looked_at) {
    const PageArray odd = PageArray::create(513).value();
    FreeBlocks blocks{odd, 0};
    odd[Pfn{513}].store({.state = BlockState::free});  // what may be after the end, as if it were one
    EXPECT_EQ(blocks.give({.first = Pfn{512}, .order = Order{}}), Order{});
    EXPECT_EQ(blocks.give({.first = Pfn{0}, .order = order(9)}), order(9));
    EXPECT_EQ(blocks.pages(), 513U);
}

TEST_F(FreeBlocksTest, descriptors_of_pages_that_are_not_in_it_are_left_alone) {
    const PageWord allocated{.state = BlockState::allocated, .order = Order{}, .references = 3};
    pages_[Pfn{1}].store(allocated);
    for (const std::uint32_t i : {0U, 2U, 3U}) EXPECT_LT(blocks_.give({.first = Pfn{i}, .order = Order{}}), order(2));
    while (blocks_.take_largest()) {
    }
    EXPECT_EQ(pages_[Pfn{1}].load().bits(), allocated.bits());
}

/// One owner a page, and no structure: where the free blocks must begin and end follows from which pages are free,
/// since all buddies have merged.
class Naive {
public:
    static constexpr std::uint8_t k_held = 255;  // else the index of a list

    explicit Naive(std::uint32_t pages) : owner_(pages, k_held), zero_(pages) {}

    [[nodiscard]] std::uint32_t size() const { return static_cast<std::uint32_t>(owner_.size()); }
    [[nodiscard]] bool all(Pfn first, std::uint32_t count, std::uint8_t owner) const {
        if (std::uint64_t{first.value()} + count > owner_.size()) return false;
        const auto begin = owner_.begin() + first.value();
        return std::all_of(begin, begin + count, [owner](std::uint8_t one) { return one == owner; });
    }
    [[nodiscard]] std::uint8_t owner(Pfn pfn) const { return owner_[pfn.value()]; }

    void set(const FreeBlock& block, std::uint8_t owner) {
        std::fill_n(owner_.begin() + block.first.value(), pages_of(block.order), owner);
        if (owner == k_held) return;
        std::fill_n(zero_.begin() + block.first.value(), pages_of(block.order), block.zero ? 1 : 0);
        // A block is zero iff all that it merged of is.
        const FreeBlock merged = block_of(block.first);
        std::fill_n(zero_.begin() + merged.first.value(), pages_of(merged.order), merged.zero ? 1 : 0);
    }

    /// The free block that a free page is in.
    [[nodiscard]] FreeBlock block_of(Pfn pfn) const {
        FreeBlock block{.first = pfn, .order = Order{}};
        while (block.order < k_max_order &&
               all(Pfn{block.first.value() ^ pages_of(block.order)}, pages_of(block.order), owner(pfn))) {
            block.first = Pfn{block.first.value() & ~pages_of(block.order)};
            block.order = Order{static_cast<std::uint8_t>(block.order.value() + 1)};
        }
        const auto begin = zero_.begin() + block.first.value();
        block.zero = std::all_of(begin, begin + pages_of(block.order), [](std::uint8_t zero) { return zero != 0; });
        return block;
    }

private:
    std::vector<std::uint8_t> owner_;
    std::vector<std::uint8_t> zero_;
};

class FreeBlocksModel : public ::testing::TestWithParam<unsigned> {
protected:
    // The end is neither at a multiple of the largest order nor of any other.
    static constexpr std::uint32_t k_pages = 4 * 1024 + 512 + 37;
    static constexpr std::uint8_t k_lists = 2;

    void SetUp() override {
        for (std::uint32_t i = 0; i < k_pages;) {
            const FreeBlock block{.first = Pfn{i}, .order = largest_order(Pfn{i}, k_pages - i), .zero = true};
            give(block, 0);
            i += pages_of(block.order);
        }
    }

    /// Mostly the first: two owners of about the same size leave no large blocks.
    std::uint8_t random_list() { return random(4) == 0 ? 1 : 0; }
    /// Small ones more often: else a few large ones are all there is.
    Order random_order() { return order(std::min({random(k_orders), random(k_orders), random(k_orders)})); }
    unsigned random(std::size_t below) { return static_cast<unsigned>(random_() % below); }

    void give(const FreeBlock& block, std::uint8_t list) {
        ASSERT_TRUE(model_.all(block.first, pages_of(block.order), Naive::k_held));
        model_.set(block, list);
        free_pages_[list] += pages_of(block.order);
        ASSERT_EQ(lists_[list].give(block), model_.block_of(block.first).order);
    }
    /// What came out of a list was free there, as one block of `from` that was as zero as it is.
    void took(const FreeBlock& block, std::uint8_t list, std::optional<Order> from = std::nullopt) {
        ASSERT_EQ(block.first.value() % pages_of(block.order), 0U);
        ASSERT_TRUE(model_.all(block.first, pages_of(block.order), list));
        const FreeBlock whole = model_.block_of(block.first);
        ASSERT_EQ(block.zero, whole.zero);
        if (from) {
            ASSERT_EQ(whole.order, *from);
        }
        const PageWord word = pages_[block.first].load();
        ASSERT_EQ(word.state, BlockState::cached);
        ASSERT_EQ(word.order, block.order);
        ASSERT_EQ(word.zero, block.zero);
        model_.set(block, Naive::k_held);
        free_pages_[list] -= pages_of(block.order);
        held_.push_back(block);
    }

    void random_take() {
        const std::uint8_t list = random_list();
        const Order wanted = random_order();
        std::optional<Order> smallest;
        for (std::uint8_t k = k_max_order.value() + 1; k-- > wanted.value();)
            if (lists_[list].blocks(Order{k}) != 0) smallest = Order{k};
        const auto block = lists_[list].take(wanted);
        ASSERT_EQ(block.has_value(), smallest.has_value());
        if (block) {
            ASSERT_EQ(block->order, wanted);
            took(*block, list, smallest);
        }
    }
    void random_take_largest() {
        const std::uint8_t list = random_list();
        std::optional<Order> largest;
        for (unsigned k = 0; k < k_orders; ++k)
            if (lists_[list].blocks(order(k)) != 0) largest = order(k);
        const auto block = lists_[list].take_largest();
        ASSERT_EQ(block.has_value(), largest.has_value());
        if (block) {
            ASSERT_EQ(block->order, *largest);
            took(*block, list, largest);
        }
    }
    void random_take_at() {
        const std::uint8_t list = random_list();
        const Order wanted = random_order();
        const Pfn first{random(k_pages) & ~(pages_of(wanted) - 1)};
        const auto block = lists_[list].take_at(first, wanted);
        ASSERT_EQ(block.has_value(), model_.all(first, pages_of(wanted), list));
        if (block) {
            ASSERT_EQ(block->first, first);
            ASSERT_EQ(block->order, wanted);
            took(*block, list);
        }
    }
    /// Gives one of the held blocks, or half of it, and what is left again into any list.
    void random_give() {
        if (held_.empty()) return;
        std::swap(held_[random(held_.size())], held_.back());
        FreeBlock block = held_.back();
        held_.pop_back();
        block.zero = random(4) != 0;
        if (block.order > Order{} && random(4) == 0) {
            block.order = Order{static_cast<std::uint8_t>(block.order.value() - 1)};
            FreeBlock rest = block;
            (random(2) == 0 ? block : rest).first = block.first + pages_of(block.order);
            held_.push_back(rest);
        }
        give(block, random_list());
    }

    void check_a_page() {
        const Pfn pfn{random(k_pages)};
        for (std::uint8_t list = 0; list < k_lists; ++list) {
            const auto block = lists_[list].at(pfn);
            const bool begins = model_.owner(pfn) == list && model_.block_of(pfn).first == pfn;
            ASSERT_EQ(block.has_value(), begins);
            if (block) {
                ASSERT_EQ(values(*block), values(model_.block_of(pfn)));
            }
        }
    }
    /// All blocks of all lists are those of the model, and their counts.
    void check_all() {
        std::array<PerOrder, k_lists> counts{};
        for (std::uint32_t i = 0; i < k_pages;) {
            const std::uint8_t owner = model_.owner(Pfn{i});
            if (owner == Naive::k_held) {
                ++i;
                continue;
            }
            const FreeBlock block = model_.block_of(Pfn{i});
            ASSERT_EQ(block.first, Pfn{i});
            ASSERT_TRUE(lists_[owner].at(Pfn{i})) << i;
            ASSERT_EQ(values(*lists_[owner].at(Pfn{i})), values(block));
            for (std::uint32_t j = 1; j < pages_of(block.order); ++j)
                ASSERT_EQ(pages_[Pfn{i + j}].load().bits(), 0U) << "inside of a block: " << i + j;
            ++counts[owner][block.order.value()];
            i += pages_of(block.order);
        }
        for (std::size_t list = 0; list < k_lists; ++list) ASSERT_EQ(lists_[list].blocks(), counts[list]);
    }

    PageArray pages_ = PageArray::create(k_pages).value();
    std::array<FreeBlocks, k_lists> lists_{FreeBlocks{pages_, 3}, FreeBlocks{pages_, 200}};
    Naive model_{k_pages};
    std::array<std::uint64_t, k_lists> free_pages_{};
    std::vector<FreeBlock> held_;
    std::mt19937 random_{GetParam()};
};
INSTANTIATE_TEST_SUITE_P(Seeds, FreeBlocksModel, ::testing::Range(0U, 4U));

TEST_P(FreeBlocksModel, two_lists_behave_like_one_owner_a_page_and_merge_back_to_the_start) {
    const PerOrder at_start = lists_[0].blocks();
    constexpr int k_steps = 50'000;
    for (int step = 0; step < k_steps; ++step) {
        // In turn mostly taking and mostly giving, so that it is nearly empty and nearly full at times.
        const unsigned giving = step / 4000 % 2 == 0 ? 25 : 65;
        const unsigned dice = random(100);
        if (dice < giving) {
            random_give();
        } else if (dice < 90) {
            random_take();
        } else if (dice < 98) {
            random_take_at();
        } else {
            random_take_largest();
        }
        check_a_page();
        for (std::size_t list = 0; list < k_lists; ++list) ASSERT_EQ(lists_[list].pages(), free_pages_[list]) << step;
        if (step % 100 == 0) check_all();
        if (HasFatalFailure()) FAIL() << "in step " << step;
    }
    while (!held_.empty()) random_give();
    check_all();
    while (const auto block = lists_[1].take_largest()) {
        took(*block, 1);
        held_.pop_back();
        give(*block, 0);
    }
    check_all();
    EXPECT_EQ(lists_[0].blocks(), at_start);
    EXPECT_EQ(lists_[0].pages(), k_pages);
    EXPECT_EQ(lists_[1].pages(), 0U);
}

}  // namespace
}  // namespace harena
