// SPDX-License-Identifier: Apache-2.0
#include "harena/page/page_store.hpp"

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <latch>
#include <memory>
#include <random>
#include <set>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include <gtest/gtest.h>

#include "harena/base/os/fault_injection.hpp"
#include "harena/base/os/memory.hpp"
#include "harena/page/test_support.hpp"

namespace harena {
namespace {

using os::Call;
using os::FailCall;
using os::ScopedFaultInjector;
using test::is_zero;
using test::make_store;
using test::ok;

constexpr Order order(unsigned k) { return Order{static_cast<std::uint8_t>(k)}; }
/// The first page of a pageblock.
constexpr Pfn block(std::uint32_t index) { return Pfn{index * k_pageblock_pages}; }
constexpr PageCount pages(std::uint64_t count) { return PageCount{count}; }

/// Nothing is out: all free pages are in blocks of a pageblock or two.
void expect_whole(const PageStore& store) {
    EXPECT_EQ(store.free_pages(), store.grown());
    for (unsigned k = 0; k < 9; ++k) EXPECT_EQ(store.free_blocks()[k], 0U) << k;
}

void expect_enomem(const Result<FreeBlock>& taken) {
    ASSERT_FALSE(taken);
    EXPECT_EQ(taken.error().code(), ENOMEM) << taken.error().message();
}

TEST(PageStoreCreation, from_1_to_64_nodes) {
    for (const unsigned nodes : {0U, 65U, ~0U}) {
        const auto store = PageStore::create({.direct_map = {.capacity = pages(512)}, .nodes = nodes});
        ASSERT_FALSE(store);
        EXPECT_EQ(store.error().code(), EINVAL);
    }
    for (const unsigned nodes : {1U, 64U}) {
        const auto store = make_store(1, nodes);
        ASSERT_NE(store, nullptr);
        EXPECT_EQ(store->nodes(), nodes);
    }
}

TEST(PageStoreCreation, a_bad_capacity_is_the_direct_maps_error) {
    const auto store = PageStore::create({.direct_map = {.capacity = pages(513)}});
    ASSERT_FALSE(store);
    EXPECT_EQ(store.error().code(), EINVAL);
}

TEST(PageStoreCreation, a_failed_call_leaves_nothing_behind) {
    const std::size_t descriptors = test::open_descriptors();
    for (std::uint64_t place = 0;; ++place) {
        FailCall failing{Call::mmap, ENOMEM, place};
        const ScopedFaultInjector injected{failing};
        const auto store = PageStore::create({.direct_map = {.capacity = pages(512)}});
        if (store) {
            EXPECT_EQ(place, 2U) << "the direct map and the descriptors";
            break;
        }
        EXPECT_EQ(store.error().code(), ENOMEM);
        EXPECT_EQ(test::open_descriptors(), descriptors);
    }
}

TEST(PageStore, is_empty_at_first_and_take_grows_it_by_what_is_needed) {
    for (unsigned k = 0; k <= 10; ++k) {
        const auto store = make_store(4);
        ASSERT_NE(store, nullptr);
        EXPECT_EQ(store->capacity(), pages(2048));
        EXPECT_EQ(store->grown(), pages(0));
        EXPECT_FALSE(store->take_free(order(k), {}));
        const auto taken = store->take(order(k), {});
        ASSERT_TRUE(ok(taken));
        EXPECT_EQ(taken->order, order(k));
        EXPECT_TRUE(taken->zero);
        EXPECT_EQ(taken->first.value() % pages_of(order(k)), 0U);
        EXPECT_EQ(store->grown(), pages(std::max(512U, pages_of(order(k)))));
        EXPECT_EQ(store->free_pages(), pages(store->grown().value() - pages_of(order(k))));
        EXPECT_TRUE(is_zero(store->direct_map().address(taken->first), bytes_of(order(k))));
        EXPECT_EQ(store->pages()[taken->first].load().state, BlockState::cached);
        EXPECT_EQ(store->pages()[taken->first].load().order, order(k));
        store->give(*taken);
        expect_whole(*store);
    }
}

TEST(PageStore, what_is_free_is_taken_before_it_grows) {
    const auto store = make_store(4);
    ASSERT_NE(store, nullptr);
    store->give(*store->take(k_max_order, {}));
    for (int i = 0; i < 4; ++i) EXPECT_TRUE(store->take(order(8), {}));
    EXPECT_EQ(store->grown(), pages(1024));
    EXPECT_EQ(store->free_pages(), pages(0));
}

TEST(PageStore, hands_out_each_page_once_up_to_its_capacity_and_then_ENOMEM) {
    const auto store = make_store(3);
    ASSERT_NE(store, nullptr);
    std::vector<FreeBlock> taken;
    std::set<std::uint32_t> seen;
    while (const auto page = store->take(Order{}, {})) {
        taken.push_back(*page);
        EXPECT_TRUE(seen.insert(page->first.value()).second);
        EXPECT_LT(page->first.value(), 3U * 512U);
    }
    EXPECT_EQ(taken.size(), 3U * 512U);
    const auto refused = store->take(Order{}, {});
    expect_enomem(refused);
    EXPECT_NE(refused.error().message().find("capacity of 1536 pages"), std::string::npos) << refused.error().message();
    store->give(taken);
    EXPECT_EQ(store->free_pages(), pages(3 * 512));
    expect_whole(*store);
}

TEST(PageStore, the_zero_flag_of_a_block_is_kept_until_it_is_given_without) {
    const auto store = make_store(1);
    ASSERT_NE(store, nullptr);
    FreeBlock page = *store->take(Order{}, {});
    page.zero = false;
    const FreeBlock clean = *store->take_at(Pfn{256}, order(8));
    EXPECT_TRUE(clean.zero);
    store->give(page);
    store->give(clean);
    EXPECT_FALSE(store->take(k_pageblock_order, {})->zero);
}

TEST(PageStore, order_10_is_two_pageblocks_that_adjoin) {
    const auto store = make_store(5);
    ASSERT_NE(store, nullptr);
    const auto first = store->take(k_max_order, {});
    const auto second = store->take(k_max_order, {});
    ASSERT_TRUE(ok(first));
    ASSERT_TRUE(ok(second));
    EXPECT_EQ(std::min(first->first, second->first), block(0));
    EXPECT_EQ(std::max(first->first, second->first), block(2));
    EXPECT_EQ(store->grown(), pages(2048));
    expect_enomem(store->take(k_max_order, {}));  // the fifth has no buddy
    EXPECT_EQ(store->grown(), pages(2048)) << "and does not come in for nothing";
    EXPECT_TRUE(store->take(k_pageblock_order, {}));
}

TEST(PageStore, order_10_is_made_of_a_free_pageblock_and_a_new_one) {
    for (const bool low_is_there : {false, true}) {
        for (const bool zero : {false, true}) {
            const auto store = make_store(2);
            ASSERT_NE(store, nullptr);
            std::vector<FreeBlock> both{*store->take(k_pageblock_order, {}), *store->take(k_pageblock_order, {})};
            std::ranges::sort(both, {}, &FreeBlock::first);
            store->give(both[low_is_there ? 1 : 0]);
            ASSERT_EQ(*store->give_back(pages(1)), pages(512));
            FreeBlock& there = both[low_is_there ? 0 : 1];
            there.zero = zero;
            store->give(there);
            const auto taken = store->take(k_max_order, {});
            ASSERT_TRUE(ok(taken));
            EXPECT_EQ(taken->first, block(0));
            EXPECT_EQ(taken->order, k_max_order);
            EXPECT_EQ(taken->zero, zero);
            EXPECT_EQ(store->pages()[block(1)].load().state, BlockState::inner);
            EXPECT_EQ(store->free_pages(), pages(0));
            store->give(*taken);
            EXPECT_EQ(store->free_blocks()[10], 1U);
        }
    }
}

TEST(PageStore, order_10_goes_where_two_pageblocks_are_to_be_had) {
    const auto store = make_store(4);
    ASSERT_NE(store, nullptr);
    const FreeBlock page = *store->take(Order{}, {});
    const auto taken = store->take(k_max_order, {});
    ASSERT_TRUE(ok(taken));
    EXPECT_EQ(taken->first.value(), 1024 - page.first.value() / 1024 * 1024);
    expect_enomem(store->take(k_max_order, {}));
    store->give(page);
    EXPECT_TRUE(store->take(k_max_order, {}));
}

TEST(PageStore, order_10_is_not_stopped_by_a_pageblock_that_another_owner_has_free) {
    const auto store = make_store(4);
    ASSERT_NE(store, nullptr);
    const auto first = store->take(k_pageblock_order, {});
    ASSERT_TRUE(ok(first));
    ASSERT_EQ(first->first, block(0));
    FreeBlocks others{store->pages(), 254};  // as the unmapped cache's
    others.give(*first);
    const auto taken = store->take(k_max_order, {});
    ASSERT_TRUE(ok(taken)) << "pageblocks 2 and 3 are to be had";
    EXPECT_EQ(taken->first, block(2));
    EXPECT_EQ(others.pages(), 512U);
}

TEST(PageStore, take_at_and_take_largest_take_only_what_is_free) {
    const auto store = make_store(4);
    ASSERT_NE(store, nullptr);
    EXPECT_FALSE(store->take_at(block(2), Order{})) << "not in the pool yet";
    EXPECT_FALSE(store->take_largest(Order{}));
    FreeBlock all = *store->take(k_max_order, {});
    store->give(all);
    const auto page = store->take_at(all.first + 700, order(2));
    ASSERT_TRUE(page);
    EXPECT_EQ(page->first, all.first + 700);
    EXPECT_FALSE(store->take_at(all.first + 700, order(2)));
    EXPECT_FALSE(store->take_largest(k_max_order));
    EXPECT_EQ(store->take_largest(order(5))->first, all.first);
    EXPECT_EQ(store->take_largest(order(5))->order, order(8));
    EXPECT_EQ(store->grown(), pages(1024));
}

TEST(PageStore, single_pages_adjoin_and_are_as_many_as_wanted) {
    for (const std::size_t wanted : {1U, 2U, 31U, 37U, 64U, 500U, 512U}) {
        const auto store = make_store(1);
        ASSERT_NE(store, nullptr);
        store->give(*store->take(Order{}, {}));
        std::vector<FreeBlock> taken(wanted);
        ASSERT_EQ(store->take_single_pages(taken, {}), wanted);
        EXPECT_EQ(store->free_pages(), pages(512 - wanted));
        for (std::size_t i = 0; i < wanted; ++i) {
            EXPECT_EQ(taken[i].order, Order{});
            EXPECT_TRUE(taken[i].zero);
            EXPECT_EQ(taken[i].first, taken[0].first + static_cast<std::uint32_t>(i)) << i;
            const PageWord word = store->pages()[taken[i].first].load();
            EXPECT_EQ(word.state, BlockState::cached);
            EXPECT_EQ(word.order, Order{});
        }
        store->give(taken);
        expect_whole(*store);
    }
}

TEST(PageStore, single_pages_are_fewer_if_fewer_are_free_and_it_does_not_grow_for_them) {
    const auto store = make_store(2);
    ASSERT_NE(store, nullptr);
    std::vector<FreeBlock> taken(3000);
    EXPECT_EQ(store->take_single_pages(taken, {}), 0U);
    const FreeBlock block = *store->take(order(3), {});
    EXPECT_EQ(store->take_single_pages(taken, {}), 504U);
    EXPECT_EQ(store->take_single_pages(taken, {}), 0U);
    EXPECT_EQ(store->take_single_pages({}, {}), 0U);
    EXPECT_EQ(store->grown(), pages(512));
    for (std::size_t i = 0; i < 504; ++i) {
        const std::uint32_t pfn = taken[i].first.value();
        EXPECT_FALSE(block.first.value() <= pfn && pfn < block.first.value() + 8);
    }
}

TEST(PageStore, gives_back_whole_pageblocks_rounded_up_and_they_return_as_zero_bytes) {
    const auto store = make_store(4);
    ASSERT_NE(store, nullptr);
    std::vector<FreeBlock> taken{*store->take(k_max_order, {}), *store->take(k_max_order, {})};
    for (FreeBlock& one : taken) {
        std::memset(store->direct_map().address(one.first), 0x55, bytes_of(one.order));
        one.zero = false;
    }
    store->give(taken);
    EXPECT_EQ(*store->give_back(pages(0)), pages(0));
    EXPECT_EQ(store->grown(), pages(2048));
    EXPECT_EQ(*store->give_back(pages(1)), pages(512));
    EXPECT_EQ(*store->give_back(pages(513)), pages(1024));
    EXPECT_EQ(store->grown(), pages(512));
    EXPECT_EQ(store->free_pages(), pages(512));
    EXPECT_EQ(*store->give_back(pages(5000)), pages(512));
    EXPECT_EQ(*store->give_back(pages(5000)), pages(0));
    EXPECT_EQ(store->grown(), pages(0));
    EXPECT_FALSE(store->take_free(Order{}, {}));
    EXPECT_EQ(store->direct_map().statistics()->vmas, 1U);
    for (int i = 0; i < 2; ++i) {
        const FreeBlock again = *store->take(k_max_order, {});
        EXPECT_TRUE(again.zero);
        EXPECT_TRUE(is_zero(store->direct_map().address(again.first), bytes_of(again.order)));
    }
}

TEST(PageStore, a_pageblock_with_one_page_out_is_not_given_back) {
    const auto store = make_store(2);
    ASSERT_NE(store, nullptr);
    const FreeBlock page = *store->take(Order{}, {});
    EXPECT_EQ(*store->give_back(pages(1)), pages(0));
    const FreeBlock other = *store->take(k_pageblock_order, {});
    store->give(other);
    EXPECT_EQ(*store->give_back(pages(1024)), pages(512));
    EXPECT_EQ(store->grown(), pages(512));
    *store->direct_map().address(page.first) = std::byte{1};
    store->give(page);
    EXPECT_EQ(*store->give_back(pages(1024)), pages(512));
}

TEST(PageStoreFails, growth_is_ENOMEM_and_can_be_tried_again) {
    const auto store = make_store(2);
    ASSERT_NE(store, nullptr);
    for (unsigned k = 0; k <= 10; ++k) {
        FailCall failing{Call::mmap, ENOMEM};
        const ScopedFaultInjector injected{failing};
        expect_enomem(store->take(order(k), {}));
        EXPECT_EQ(store->grown(), pages(0));
        EXPECT_EQ(store->free_pages(), pages(0));
        EXPECT_EQ(store->pages()[block(0)].load().bits(), 0U);
    }
    EXPECT_TRUE(ok(store->take(k_max_order, {})));
}

TEST(PageStoreFails, order_10_with_one_pageblock_only_is_ENOMEM_and_that_one_is_free) {
    const auto store = make_store(2);
    ASSERT_NE(store, nullptr);
    {
        FailCall failing{Call::mmap, ENOMEM, 1};
        const ScopedFaultInjector injected{failing};
        expect_enomem(store->take(k_max_order, {}));
    }
    EXPECT_EQ(store->grown(), pages(512));
    expect_whole(*store);
    const auto taken = store->take(k_max_order, {});
    ASSERT_TRUE(ok(taken));
    EXPECT_TRUE(is_zero(store->direct_map().address(taken->first), bytes_of(k_max_order)));
    EXPECT_EQ(store->grown(), pages(1024));
}

TEST(PageStoreFails, giving_back_is_an_error_only_before_the_first_pageblock) {
    const auto store = make_store(4);
    ASSERT_NE(store, nullptr);
    std::vector<FreeBlock> taken{*store->take(k_max_order, {}), *store->take(k_max_order, {})};
    store->give(taken);
    for (const Call call : {Call::mmap, Call::fallocate}) {
        FailCall failing{call, ENOMEM};
        const ScopedFaultInjector injected{failing};
        const auto given = store->give_back(pages(2048));
        ASSERT_FALSE(given);
        EXPECT_EQ(given.error().code(), ENOMEM);
        EXPECT_EQ(store->grown(), pages(2048));
        expect_whole(*store);
        EXPECT_EQ(store->free_blocks()[10], 2U);
    }
    FailCall failing{Call::fallocate, ENOMEM, 1};
    const ScopedFaultInjector injected{failing};
    EXPECT_EQ(*store->give_back(pages(2048)), pages(512));
    EXPECT_EQ(store->grown(), pages(1536));
    expect_whole(*store);
    while (const auto page = store->take_free(order(6), {})) {  // all of it is there and can be used
        EXPECT_TRUE(is_zero(store->direct_map().address(page->first), bytes_of(order(6))));
    }
}

TEST(PageStoreFails, a_pageblock_that_could_neither_be_given_back_nor_mapped_again_is_not_handed_out) {
    const auto store = make_store(1);
    ASSERT_NE(store, nullptr);
    store->give(*store->take(k_pageblock_order, {}));
    class FailGiveBackForGood final : public os::FaultInjector {
    public:
        int on_call(Call call) noexcept override {
            if (call == Call::fallocate) return punched_ = true, ENOMEM;
            return punched_ && call == Call::mmap ? ENOMEM : 0;
        }

    private:
        bool punched_ = false;
    } failing;
    {
        const ScopedFaultInjector injected{failing};
        EXPECT_FALSE(store->give_back(pages(512)));
    }
    // Whatever is handed out after this must be readable: by the kernel's account, so that nothing traps.
    const auto taken = store->take(k_pageblock_order, {});
    if (!taken) return;  // to lose it is allowed
    const auto mapping =
        os::find_mapping(reinterpret_cast<std::uint64_t>(store->direct_map().address(taken->first)), k_page_size);
    ASSERT_TRUE(mapping);
    EXPECT_NE(mapping->find(" rw-s "), std::string::npos) << *mapping;
}

class PageStoreNodes : public ::testing::Test {
protected:
    static constexpr NodeChoice strict(unsigned node) { return {.preferred = node, .strict = true}; }
    static constexpr NodeChoice preferred(unsigned node) { return {.preferred = node}; }
    [[nodiscard]] unsigned node_of(Pfn pfn) const { return store_->pageblock(pfn).node; }
    /// Whether all pages of a block are on a node.
    [[nodiscard]] bool is_on(const FreeBlock& block, unsigned node) const {
        for (std::uint32_t i = 0; i < pages_of(block.order); ++i)
            if (node_of(block.first + i) != node) return false;
        return true;
    }

    void SetUp() override { ASSERT_NE(store_, nullptr); }

    std::unique_ptr<PageStore> store_ = make_store(6, 3);
};

TEST_F(PageStoreNodes, a_strict_choice_grows_its_own_node_whatever_others_have) {
    for (const unsigned node : {2U, 0U, 1U}) {
        const auto page = store_->take(Order{}, strict(node));
        ASSERT_TRUE(ok(page));
        EXPECT_EQ(node_of(page->first), node);
    }
    EXPECT_EQ(store_->grown(), pages(3 * 512));
    for (const unsigned node : {2U, 0U, 1U}) EXPECT_EQ(node_of(store_->take(Order{}, strict(node))->first), node);
    EXPECT_EQ(store_->grown(), pages(3 * 512));
}

TEST_F(PageStoreNodes, a_preference_takes_the_own_node_first_and_grows_there_before_it_takes_of_others) {
    const auto on_2 = store_->take(order(8), strict(2));
    ASSERT_TRUE(ok(on_2));
    EXPECT_EQ(node_of(store_->take(order(8), preferred(1))->first), 1U) << "node 2 has some, and there is room to grow";
    EXPECT_EQ(store_->grown(), pages(2 * 512));
    while (store_->take(order(8), strict(1))) {
    }
    EXPECT_EQ(node_of(store_->take(order(8), preferred(1))->first), 2U) << "there is no more room";
    EXPECT_FALSE(store_->take(order(8), preferred(1)));
}

TEST_F(PageStoreNodes, at_the_capacity_a_strict_choice_is_ENOMEM_and_a_preference_is_served) {
    std::vector<FreeBlock> taken;
    taken.reserve(6);
    for (int i = 0; i < 6; ++i) taken.push_back(*store_->take(k_pageblock_order, strict(1)));
    store_->give(taken);
    EXPECT_FALSE(store_->take_free(Order{}, strict(0)));
    expect_enomem(store_->take(Order{}, strict(0)));
    const auto page = store_->take(Order{}, preferred(0));
    ASSERT_TRUE(ok(page));
    EXPECT_EQ(node_of(page->first), 1U);
}

TEST_F(PageStoreNodes, blocks_go_home_and_those_of_different_nodes_do_not_merge) {
    std::vector<FreeBlock> taken;
    taken.reserve(6);
    for (int i = 0; i < 6; ++i) taken.push_back(*store_->take(k_pageblock_order, strict(static_cast<unsigned>(i % 2))));
    store_->give(taken);
    EXPECT_EQ(store_->free_blocks()[9], 6U);
    EXPECT_EQ(store_->free_blocks()[10], 0U);
    EXPECT_EQ(store_->free_pages(), pages(6 * 512));
    for (const unsigned node : {0U, 1U}) {
        for (int i = 0; i < 3; ++i) EXPECT_TRUE(is_on(*store_->take_free(k_pageblock_order, strict(node)), node));
        EXPECT_FALSE(store_->take_free(Order{}, strict(node)));
    }
}

TEST_F(PageStoreNodes, single_pages_are_strict_or_preferred_too) {
    for (const unsigned node : {0U, 1U, 2U}) store_->give(*store_->take(k_pageblock_order, strict(node)));
    std::vector<FreeBlock> taken(600);
    ASSERT_EQ(store_->take_single_pages(taken, strict(1)), 512U);
    for (std::size_t i = 0; i < 512; ++i) ASSERT_EQ(node_of(taken[i].first), 1U);
    store_->give(std::span{taken}.first(512));
    ASSERT_EQ(store_->take_single_pages(taken, preferred(1)), 600U);
    for (std::size_t i = 0; i < 600; ++i) ASSERT_EQ(node_of(taken[i].first), i < 512 ? 1U : 2U) << i;
    store_->give(taken);
    EXPECT_EQ(store_->free_blocks()[9], 3U);
}

TEST_F(PageStoreNodes, take_at_and_take_largest_find_the_blocks_of_all_nodes) {
    for (const unsigned node : {0U, 1U, 2U}) {
        const FreeBlock block = *store_->take(k_pageblock_order, strict(node));
        store_->give(block);
        const auto page = store_->take_at(block.first + 5, Order{});
        ASSERT_TRUE(page);
        store_->give(*page);
    }
    for (int i = 0; i < 3; ++i) EXPECT_TRUE(store_->take_largest(k_pageblock_order));
    EXPECT_FALSE(store_->take_largest(Order{}));
}

TEST_F(PageStoreNodes, pageblocks_of_all_nodes_are_given_back_and_may_return_on_another) {
    for (const unsigned node : {0U, 1U, 2U}) store_->give(*store_->take(k_pageblock_order, strict(node)));
    EXPECT_EQ(*store_->give_back(pages(3 * 512)), pages(3 * 512));
    for (int i = 0; i < 6; ++i) EXPECT_TRUE(is_on(*store_->take(k_pageblock_order, strict(2)), 2));
}

TEST_F(PageStoreNodes, a_strict_block_of_order_10_has_both_its_halves_on_its_node) {
    const FreeBlock on_1 = *store_->take(k_pageblock_order, strict(1));
    store_->give(on_1);
    const auto taken = store_->take(k_max_order, strict(2));
    ASSERT_TRUE(ok(taken));
    EXPECT_TRUE(is_on(*taken, 2)) << "nodes " << node_of(taken->first) << " and " << node_of(taken->first + 512);
}

TEST_F(PageStoreNodes, what_is_strictly_of_a_node_stays_so_after_blocks_of_order_10_came_and_went) {
    store_->give(*store_->take(k_pageblock_order, strict(1)));
    const auto large = store_->take(k_max_order, preferred(2));
    ASSERT_TRUE(ok(large));
    store_->give(*large);
    for (const unsigned node : {0U, 1U, 2U})
        while (const auto page = store_->take_free(order(8), strict(node)))
            EXPECT_TRUE(is_on(*page, node)) << page->first.value();
}

TEST(PageStoreThreads, blocks_of_threads_never_overlap_and_all_merge_at_the_end) {
    constexpr std::uint32_t k_pageblocks = 8;
    for (const unsigned nodes : {1U, 3U}) {
        const auto store = make_store(k_pageblocks, nodes);
        ASSERT_NE(store, nullptr);
        std::vector<std::atomic<bool>> owned(std::size_t{k_pageblocks} * k_pageblock_pages);
        std::atomic<int> overlaps{0};
        std::atomic<int> taken_blocks{0};
        std::atomic<int> grown_beyond{0};
        const auto own = [&](const FreeBlock& block, bool owns) {
            for (std::uint32_t i = 0; i < pages_of(block.order); ++i)
                if (owned[block.first.value() + i].exchange(owns) == owns) ++overlaps;
        };
        {
            std::vector<std::jthread> threads;
            threads.reserve(5);
            for (unsigned t = 0; t < 4; ++t)
                threads.emplace_back([&, t] {
                    std::mt19937 random{t};
                    std::vector<FreeBlock> held;
                    for (int i = 0; i < 4000; ++i) {
                        const NodeChoice node{.preferred = static_cast<unsigned>(random()) % nodes,
                                              .strict = random() % 4 == 0};
                        const auto dice = static_cast<unsigned>(random() % 100);
                        if (dice < 40) {
                            if (const auto block = store->take(order(static_cast<unsigned>(random()) % 11), node)) {
                                own(*block, true);
                                held.push_back(*block);
                                ++taken_blocks;
                            }
                        } else if (dice < 50) {
                            std::vector<FreeBlock> single(random() % 40);
                            single.resize(store->take_single_pages(single, node));
                            for (const FreeBlock& page : single) own(page, true);
                            held.insert(held.end(), single.begin(), single.end());
                        } else if (dice < 98) {
                            if (held.empty()) continue;
                            std::swap(held[random() % held.size()], held.back());
                            own(held.back(), false);
                            store->give(held.back());
                            held.pop_back();
                        } else {
                            (void)store->give_back(pages(512));
                        }
                        if (store->grown() > store->capacity()) ++grown_beyond;
                    }
                    for (const FreeBlock& block : held) own(block, false);
                    store->give(held);
                });
        }
        EXPECT_EQ(overlaps, 0);
        EXPECT_EQ(grown_beyond, 0);
        EXPECT_GT(taken_blocks, 100);
        EXPECT_EQ(store->free_pages(), store->grown());
        if (nodes == 1) expect_whole(*store);
        std::uint64_t sum = 0;
        for (unsigned k = 0; k < k_orders; ++k) sum += store->free_blocks()[k] * pages_of(order(k));
        EXPECT_EQ(sum, store->grown().value());
    }
}

TEST(PageStoreThreads, threads_that_wait_for_growth_use_what_the_first_one_grew) {
    for (int round = 0; round < 200; ++round) {
        const auto store = make_store(4);
        ASSERT_NE(store, nullptr);
        std::latch start{3};
        {
            std::vector<std::jthread> threads;
            threads.reserve(5);
            for (int t = 0; t < 3; ++t)
                threads.emplace_back([&] {
                    start.arrive_and_wait();
                    EXPECT_TRUE(store->take(Order{}, {}));
                });
        }
        ASSERT_EQ(store->grown(), pages(512)) << round;
        ASSERT_EQ(store->free_pages(), pages(509)) << round;
    }
}

TEST(PageStoreThreads, threads_that_grow_it_at_once_get_exactly_its_capacity) {
    for (int round = 0; round < 20; ++round) {
        const auto store = make_store(16);
        ASSERT_NE(store, nullptr);
        std::atomic<int> got{0};
        {
            std::vector<std::jthread> threads;
            threads.reserve(5);
            for (int t = 0; t < 4; ++t)
                threads.emplace_back([&] {
                    while (store->take(order(8), {})) ++got;
                });
        }
        EXPECT_EQ(got, 32);
        EXPECT_EQ(store->grown(), store->capacity());
        EXPECT_EQ(store->free_pages(), pages(0));
    }
}

}  // namespace
}  // namespace harena
