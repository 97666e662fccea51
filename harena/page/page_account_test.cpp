// SPDX-License-Identifier: Apache-2.0
#include "harena/page/page_account.hpp"

#include <array>
#include <atomic>
#include <cerrno>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include <gtest/gtest.h>

#include "harena/base/assert.hpp"

namespace harena {
namespace {

std::shared_ptr<PageAccount> account(std::string name, std::uint64_t limit,
                                     std::shared_ptr<PageAccount> parent = nullptr) {
    return std::make_shared<PageAccount>(std::move(name), PageCount{limit}, std::move(parent));
}

TEST(PageAccount, a_charge_up_to_the_limit_is_allowed_and_one_page_more_is_ENOMEM) {
    PageAccount tables{"tables", PageCount{10}};
    EXPECT_TRUE(tables.charge(PageCount{7}));
    EXPECT_TRUE(tables.charge(PageCount{3}));
    const auto refused = tables.charge(PageCount{1});
    ASSERT_FALSE(refused);
    EXPECT_EQ(refused.error().code(), ENOMEM);
    EXPECT_NE(refused.error().message().find("'tables'"), std::string::npos) << refused.error().message();
    EXPECT_NE(refused.error().message().find("10 of 10"), std::string::npos) << refused.error().message();
    EXPECT_EQ(tables.used(), PageCount{10});
    tables.uncharge(PageCount{10});
    EXPECT_EQ(tables.used(), PageCount{0});
}

TEST(PageAccount, no_charge_is_so_large_that_the_sum_wraps) {
    PageAccount limited{"limited", PageCount{10}};
    EXPECT_TRUE(limited.charge(PageCount{5}));
    EXPECT_FALSE(limited.charge(PageCount{~std::uint64_t{0}}));
    EXPECT_FALSE(limited.charge(PageCount{~std::uint64_t{0} - 4}));
    EXPECT_EQ(limited.used(), PageCount{5});
    limited.uncharge(PageCount{5});
    PageAccount unlimited{"unlimited"};
    EXPECT_EQ(unlimited.limit(), PageAccount::k_no_limit);
    EXPECT_TRUE(unlimited.charge(PageCount{~std::uint64_t{0}}));
    EXPECT_FALSE(unlimited.charge(PageCount{1}));
    unlimited.uncharge(PageCount{~std::uint64_t{0}});
}

TEST(PageAccount, a_charge_of_no_pages_changes_nothing) {
    PageAccount full{"full", PageCount{0}};
    EXPECT_TRUE(full.charge(PageCount{0}));
    full.uncharge(PageCount{0});
    EXPECT_EQ(full.peak(), PageCount{0});
    EXPECT_EQ(full.failures(), 0U);
}

TEST(PageAccount, what_is_charged_is_charged_to_all_above) {
    const auto root = account("root", 100);
    const auto left = account("left", 100, root);
    const auto right = account("right", 100, root);
    const auto leaf = account("leaf", 100, left);
    EXPECT_TRUE(leaf->charge(PageCount{3}));
    EXPECT_TRUE(right->charge(PageCount{4}));
    EXPECT_EQ(leaf->used(), PageCount{3});
    EXPECT_EQ(left->used(), PageCount{3});
    EXPECT_EQ(right->used(), PageCount{4});
    EXPECT_EQ(root->used(), PageCount{7});
    leaf->uncharge(PageCount{3});
    right->uncharge(PageCount{4});
    EXPECT_EQ(root->used(), PageCount{0});
    EXPECT_EQ(root->peak(), PageCount{7});
    EXPECT_EQ(left->used(), PageCount{0});
}

TEST(PageAccount, an_ancestor_at_its_limit_is_named_and_nothing_stays_charged_below_it) {
    const auto root = account("the root", 100);
    const auto middle = account("the middle", 5, root);
    const auto leaf = account("the leaf", 50, middle);
    EXPECT_TRUE(leaf->charge(PageCount{2}));
    const auto refused = leaf->charge(PageCount{4});
    ASSERT_FALSE(refused);
    EXPECT_EQ(refused.error().code(), ENOMEM);
    EXPECT_NE(refused.error().message().find("'the middle'"), std::string::npos) << refused.error().message();
    EXPECT_EQ(leaf->used(), PageCount{2});
    EXPECT_EQ(middle->used(), PageCount{2});
    EXPECT_EQ(root->used(), PageCount{2});
    EXPECT_EQ(root->peak(), PageCount{2}) << "what is above it was not charged at any time";
    EXPECT_EQ(leaf->failures(), 0U) << "it was not its limit";
    EXPECT_EQ(middle->failures(), 1U);
    EXPECT_EQ(root->failures(), 0U);
    leaf->uncharge(PageCount{2});
}

TEST(PageAccount, an_account_keeps_its_parent) {
    auto leaf = account("leaf", 1, account("root", 0));
    const auto refused = leaf->charge(PageCount{1});
    ASSERT_FALSE(refused);
    EXPECT_NE(refused.error().message().find("'root'"), std::string::npos) << refused.error().message();
}

TEST(PageAccount, a_lower_limit_takes_nothing_back_and_refuses_until_enough_is_gone) {
    PageAccount shrunk{"shrunk", PageCount{10}};
    EXPECT_TRUE(shrunk.charge(PageCount{8}));
    shrunk.set_limit(PageCount{4});
    EXPECT_EQ(shrunk.limit(), PageCount{4});
    EXPECT_EQ(shrunk.used(), PageCount{8});
    EXPECT_FALSE(shrunk.charge(PageCount{1}));
    EXPECT_FALSE(shrunk.charge(PageCount{~std::uint64_t{0} - 8}));
    shrunk.uncharge(PageCount{5});
    EXPECT_FALSE(shrunk.charge(PageCount{2}));
    EXPECT_TRUE(shrunk.charge(PageCount{1}));
    EXPECT_EQ(shrunk.failures(), 3U);
    EXPECT_EQ(shrunk.peak(), PageCount{8});
    shrunk.set_limit(PageAccount::k_no_limit);
    EXPECT_TRUE(shrunk.charge(PageCount{1000}));
    EXPECT_EQ(shrunk.peak(), PageCount{1004});
    shrunk.uncharge(PageCount{1004});
}

TEST(PageAccount, a_tree_behaves_like_a_sum_over_paths) {
    constexpr std::size_t k_accounts = 12;
    std::mt19937 random{3};
    std::vector<std::shared_ptr<PageAccount>> tree;
    std::array<std::size_t, k_accounts> parent{};
    std::array<std::uint64_t, k_accounts> limit{};
    std::array<std::uint64_t, k_accounts> used{};
    std::array<std::uint64_t, k_accounts> charged{};  // to this one itself
    std::array<std::uint64_t, k_accounts> failures{};
    for (std::size_t i = 0; i < k_accounts; ++i) {
        parent[i] = i == 0 ? k_accounts : random() % i;
        limit[i] = 20 + random() % 100;
        tree.push_back(account(std::to_string(i), limit[i], i == 0 ? nullptr : tree[parent[i]]));
    }
    int refused = 0;
    for (int step = 0; step < 20'000; ++step) {
        const std::size_t at = random() % k_accounts;
        const std::uint64_t pages = random() % 16;
        const auto for_each_above = [&](auto&& visit) {
            for (std::size_t i = at; i != k_accounts; i = parent[i])
                if (!visit(i)) return;
        };
        if (random() % 20 == 0) {
            limit[at] = random() % 120;
            tree[at]->set_limit(PageCount{limit[at]});
        } else if (random() % 2 == 0 && charged[at] >= pages) {
            tree[at]->uncharge(PageCount{pages});
            charged[at] -= pages;
            for_each_above([&](std::size_t i) { return used[i] -= pages, true; });
        } else {
            std::size_t in_the_way = k_accounts;
            for_each_above([&](std::size_t i) {
                if (used[i] + pages <= limit[i]) return true;
                in_the_way = i;
                return false;
            });
            const auto done = tree[at]->charge(PageCount{pages});
            ASSERT_EQ(done.has_value(), in_the_way == k_accounts) << step;
            if (done) {
                charged[at] += pages;
                for_each_above([&](std::size_t i) { return used[i] += pages, true; });
            } else {
                ++failures[in_the_way];
                ++refused;
                ASSERT_NE(done.error().message().find("'" + std::to_string(in_the_way) + "'"), std::string::npos);
            }
        }
        for (std::size_t i = 0; i < k_accounts; ++i) {
            ASSERT_EQ(tree[i]->used(), PageCount{used[i]}) << step;
            ASSERT_EQ(tree[i]->failures(), failures[i]) << step;
            ASSERT_GE(tree[i]->peak(), tree[i]->used()) << step;
        }
    }
    EXPECT_GT(refused, 1000);
    EXPECT_LT(refused, 15'000);
    for (std::size_t i = 0; i < k_accounts; ++i) tree[i]->uncharge(PageCount{charged[i]});
    EXPECT_EQ(tree[0]->used(), PageCount{0});
}

TEST(PageAccount, threads_that_charge_at_once_never_pass_a_limit_and_the_end_is_exact) {
    constexpr std::uint64_t k_root_limit = 20;
    constexpr std::uint64_t k_leaf_limit = 13;
    const auto root = account("root", k_root_limit);
    const std::array leaves{account("left", k_leaf_limit, root), account("right", k_leaf_limit, root)};
    std::atomic<bool> over{false};
    std::atomic<int> running{4};
    const auto check = [&] {
        bool within = root->used().value() <= k_root_limit;
        for (const auto& leaf : leaves) within = within && leaf->used().value() <= k_leaf_limit;
        if (!within) over = true;
    };
    std::array<std::uint64_t, 4> refused{};
    {
        std::vector<std::jthread> threads;
        threads.reserve(5);
        for (unsigned t = 0; t < 4; ++t)
            threads.emplace_back([&, t] {
                std::mt19937 random{t};
                std::vector<std::uint64_t> held;
                for (int i = 0; i < 50'000; ++i) {
                    PageAccount& leaf = *leaves[t % 2];
                    const std::uint64_t pages = 1 + random() % 5;
                    if (held.size() < 4 && leaf.charge(PageCount{pages})) {
                        held.push_back(pages);
                    } else if (!held.empty()) {
                        refused[t] += held.size() < 4 ? 1U : 0U;
                        leaf.uncharge(PageCount{held.back()});
                        held.pop_back();
                    }
                    check();
                }
                for (const std::uint64_t pages : held) leaves[t % 2]->uncharge(PageCount{pages});
                --running;
            });
        threads.emplace_back([&] {
            while (running != 0) check();
        });
    }
    EXPECT_FALSE(over);
    EXPECT_EQ(root->used(), PageCount{0});
    EXPECT_LE(root->peak(), PageCount{k_root_limit});
    for (const auto& leaf : leaves) {
        EXPECT_EQ(leaf->used(), PageCount{0});
        EXPECT_LE(leaf->peak(), PageCount{k_leaf_limit});
        EXPECT_GT(leaf->peak(), PageCount{0});
    }
    std::uint64_t failures = root->failures();
    for (const auto& leaf : leaves) failures += leaf->failures();
    EXPECT_GE(failures, refused[0] + refused[1] + refused[2] + refused[3]);
    EXPECT_GT(failures, 0U) << "the limits were reached at all";
}

TEST(PageAccount, one_page_of_room_goes_to_one_thread) {
    PageAccount single{"single", PageCount{1}};
    std::atomic<int> owners{0};
    std::atomic<bool> two{false};
    std::array<int, 4> got{};
    {
        std::vector<std::jthread> threads;
        threads.reserve(5);
        for (int& mine : got)
            threads.emplace_back([&] {
                for (int i = 0; i < 50'000; ++i) {
                    if (!single.charge(PageCount{1})) continue;
                    if (++owners != 1) two = true;
                    ++mine;
                    --owners;
                    single.uncharge(PageCount{1});
                }
            });
    }
    EXPECT_FALSE(two);
    EXPECT_EQ(single.used(), PageCount{0});
    EXPECT_EQ(single.peak(), PageCount{1});
    EXPECT_EQ(single.failures(), 4U * 50'000U - static_cast<unsigned>(got[0] + got[1] + got[2] + got[3]));
}

TEST(PageAccountDeathTest, debug_builds_abort_if_pages_are_left_at_the_end) {
    if (!k_debug_checks) GTEST_SKIP() << "a release build does not check this";
    EXPECT_DEATH(
        {
            PageAccount left{"left"};
            (void)left.charge(PageCount{1});
        },
        "an account ends while pages are charged to it");
}

TEST(PageAccountDeathTest, debug_builds_abort_if_more_is_taken_off_than_was_charged) {
    if (!k_debug_checks) GTEST_SKIP() << "a release build does not check this";
    EXPECT_DEATH(
        {
            PageAccount less{"less"};
            (void)less.charge(PageCount{1});
            less.uncharge(PageCount{2});
        },
        "more pages are taken off an account than were charged");
}

}  // namespace
}  // namespace harena
