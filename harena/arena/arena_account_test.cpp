// SPDX-License-Identifier: Apache-2.0
//
// Who pays for pages: limits are hard, counters exact.
#include <array>
#include <atomic>
#include <cerrno>
#include <csignal>
#include <memory>
#include <random>
#include <thread>
#include <utility>
#include <vector>

#include "harena/arena/process_arena.hpp"
#include "harena/arena/sharing_test_support.hpp"
#include "harena/arena/test_support.hpp"

namespace harena {
namespace {

using test::byte_at;
using test::make_tuned_arena;
using test::number;
using test::page_at;
using test::refused;
using test::usage;

using Account = std::shared_ptr<PageAccount>;

Account account_of(std::string name, std::uint64_t limit = ~0ULL, Account parent = nullptr) {
    return std::make_shared<PageAccount>(std::move(name), PageCount{limit}, std::move(parent));
}
std::uint64_t used(const Account& account) { return account->used().value(); }

std::shared_ptr<ProcessArena> arena_paid_by(const Account& account, Charge charge = Charge::creator,
                                            std::uint64_t pages = 64) {
    return make_tuned_arena(
        {.name = "paid", .pages = PageCount{pages}, .tuning = {.account = account, .charge = charge}});
}

TEST(ArenaAccount, the_creator_pays_for_all_pages_whoever_asks_for_them) {
    const Account creator = account_of("creator");
    const Account caller = account_of("caller");
    const auto arena = arena_paid_by(creator);
    ASSERT_NE(arena, nullptr);
    EXPECT_EQ(used(creator), 0U);
    ASSERT_TRUE(arena->alloc_pages(PageCount{3}, {.account = caller}));
    EXPECT_NE(arena->kfunc_alloc_pages(0, 2, -1, 0), 0U);
    EXPECT_NE(arena->kfunc_alloc_pages_for(arena->payer(caller).value(), 0, 1, -1, 0), 0U);
    EXPECT_EQ(used(creator), 6U);
    EXPECT_EQ(used(caller), 0U);
}

TEST(ArenaAccount, the_caller_pays_if_so_asked_and_the_creator_for_touches) {
    const Account creator = account_of("creator");
    const std::array callers{account_of("one"), account_of("other")};
    const auto arena = arena_paid_by(creator, Charge::caller);
    ASSERT_NE(arena, nullptr);
    void* const pages = arena->alloc_pages(PageCount{3}, {.account = callers[0]}).value();
    const std::uint64_t program = arena->kfunc_alloc_pages_for(arena->payer(callers[1]).value(), 0, 5, -1, 0);
    ASSERT_NE(program, 0U);
    ASSERT_TRUE(arena->alloc_pages(PageCount{2})) << "nobody pays";
    byte_at(page_at(*arena, 40)) = 1;
    EXPECT_EQ(used(callers[0]), 3U);
    EXPECT_EQ(used(callers[1]), 5U);
    EXPECT_EQ(used(creator), 1U);
    EXPECT_EQ(usage(*arena), "11 0");
    // Whoever frees: it goes back to who has paid.
    ASSERT_TRUE(arena->free_pages(pages, PageCount{1}));
    arena->kfunc_free_pages(program, 5);
    arena->kfunc_free_pages(number(page_at(*arena, 40)), 1);
    EXPECT_EQ(used(callers[0]), 2U);
    EXPECT_EQ(used(callers[1]), 0U);
    EXPECT_EQ(used(creator), 0U);
}

TEST(ArenaAccount, free_and_reserved_pages_cost_nothing) {
    const Account account = account_of("payer", 8);
    const auto arena = arena_paid_by(account);
    ASSERT_NE(arena, nullptr);
    ASSERT_TRUE(arena->reserve_pages(page_at(*arena, 60), PageCount{4}));
    byte_at(page_at(*arena, 61)) = 1;
    EXPECT_EQ(used(account), 0U);
    void* const pages = arena->alloc_pages(PageCount{8}).value();
    ASSERT_TRUE(arena->free_pages(pages, PageCount{8}));
    EXPECT_EQ(arena->statistics().value().recycled, PageCount{8});
    EXPECT_EQ(used(account), 0U);
    ASSERT_TRUE(arena->free_pages(page_at(*arena, 60), PageCount{4}));
    EXPECT_EQ(used(account), 0U);
}

TEST(ArenaAccount, a_limit_in_the_way_is_ENOMEM_which_names_the_account_and_takes_nothing) {
    const Account account = account_of("small", 4);
    const auto arena = arena_paid_by(account);
    ASSERT_NE(arena, nullptr);
    EXPECT_TRUE(refused(arena->alloc_pages(PageCount{5}), ENOMEM, "account 'small'"));
    EXPECT_EQ(used(account), 0U);
    ASSERT_TRUE(arena->alloc_pages(PageCount{4}));
    EXPECT_TRUE(refused(arena->alloc_pages(PageCount{1}), ENOMEM, "4 of 4 pages"));
    EXPECT_TRUE(refused(arena->alloc_pages(PageCount{1}, {.address = page_at(*arena, 9)}), ENOMEM, "'small'"));
    EXPECT_EQ(arena->kfunc_alloc_pages(0, 1, -1, 0), 0U);
    EXPECT_FALSE(arena->populate(page_at(*arena, 9), 1));
    EXPECT_EQ(usage(*arena), "4 0");
    EXPECT_EQ(used(account), 4U);
    account->set_limit(PageCount{5});
    EXPECT_TRUE(test::ok(arena->alloc_pages(PageCount{1})));
}

TEST(ArenaAccount, populate_of_a_page_that_was_freed_needs_room_in_the_account_too) {
    const Account account = account_of("small", 4);
    const auto arena = arena_paid_by(account);
    ASSERT_NE(arena, nullptr);
    void* const pages = arena->alloc_pages(PageCount{4}, {.address = page_at(*arena, 0)}).value();
    ASSERT_TRUE(arena->free_pages(pages, PageCount{2}));
    ASSERT_TRUE(arena->alloc_pages(PageCount{2}, {.address = page_at(*arena, 8)}));
    EXPECT_TRUE(refused(arena->populate(pages, 1), ENOMEM, "'small'"));
    ASSERT_TRUE(arena->free_pages(page_at(*arena, 8), PageCount{1}));
    EXPECT_TRUE(test::ok(arena->populate(pages, 1)));
    EXPECT_EQ(used(account), 4U);
}

TEST(ArenaAccount, a_failed_allocation_is_not_paid_for) {
    const Account account = account_of("payer");
    const auto arena = arena_paid_by(account);
    ASSERT_NE(arena, nullptr);
    ASSERT_TRUE(arena->alloc_pages(PageCount{1}, {.address = page_at(*arena, 32)}));
    EXPECT_FALSE(arena->alloc_pages(PageCount{40}));
    EXPECT_FALSE(arena->alloc_pages(PageCount{2}, {.address = page_at(*arena, 31)}));
    EXPECT_FALSE(arena->alloc_pages(PageCount{65}));
    EXPECT_EQ(used(account), 1U);
}

TEST(ArenaAccount, accounts_above_pay_too_and_their_limits_hold) {
    const Account root = account_of("root", 10);
    const Account left = account_of("left", 8, root);
    const Account right = account_of("right", 8, root);
    const auto arena = arena_paid_by(nullptr, Charge::caller);
    ASSERT_NE(arena, nullptr);
    ASSERT_TRUE(arena->alloc_pages(PageCount{8}, {.account = left}));
    EXPECT_TRUE(refused(arena->alloc_pages(PageCount{1}, {.account = left}), ENOMEM, "'left'"));
    EXPECT_TRUE(refused(arena->alloc_pages(PageCount{3}, {.account = right}), ENOMEM, "or one above it"));
    ASSERT_TRUE(arena->alloc_pages(PageCount{2}, {.account = right}));
    EXPECT_EQ(used(root), 10U);
    EXPECT_EQ(used(left), 8U);
    EXPECT_EQ(used(right), 2U);
    arena->kfunc_free_pages(number(arena->data()), 64);
    EXPECT_EQ(used(root), 0U);
}

TEST(ArenaAccount, an_arenas_end_takes_everything_back) {
    const Account account = account_of("payer");
    const Account caller = account_of("caller");
    {
        const auto arena = arena_paid_by(account, Charge::caller);
        ASSERT_NE(arena, nullptr);
        ASSERT_TRUE(arena->alloc_pages(PageCount{7}, {.account = caller}));
        byte_at(page_at(*arena, 60)) = 1;
        EXPECT_EQ(used(account), 1U);
    }
    EXPECT_EQ(used(account), 0U);
    EXPECT_EQ(used(caller), 0U);
    EXPECT_EQ(caller.use_count(), 1);
}

TEST(ArenaAccount, pages_of_two_arenas_add_up) {
    const Account account = account_of("payer", 10);
    const auto one = arena_paid_by(account);
    const auto other = arena_paid_by(account);
    ASSERT_TRUE(one != nullptr && other != nullptr);
    ASSERT_TRUE(one->alloc_pages(PageCount{6}));
    EXPECT_FALSE(other->alloc_pages(PageCount{5}));
    EXPECT_TRUE(other->alloc_pages(PageCount{4}));
    EXPECT_EQ(used(account), 10U);
}

TEST(ArenaAccount, the_snapshot_names_who_pays) {
    const Account account = account_of("payer");
    const auto arena = arena_paid_by(account, Charge::caller);
    ASSERT_NE(arena, nullptr);
    ASSERT_TRUE(arena->alloc_pages(PageCount{2}, {.address = page_at(*arena, 0)}));
    ASSERT_TRUE(arena->alloc_pages(PageCount{2}, {.address = page_at(*arena, 2), .account = account}));
    const auto ranges = arena->snapshot().value();
    ASSERT_EQ(ranges.size(), 2U) << "adjoining, but not one's";
    EXPECT_EQ(ranges[0].account, "");
    EXPECT_EQ(ranges[1].account, "payer");
    EXPECT_EQ(ranges[1].pages, PageCount{2});
}

TEST(ArenaAccount, limits_are_hard_and_counters_exact_while_threads_compete) {
    constexpr std::uint64_t k_limit = 100;
    const Account root = account_of("root", k_limit);
    const std::array accounts{account_of("one", 60, root), account_of("other", 60, root)};
    const auto arena = arena_paid_by(root, Charge::caller, 1024);
    ASSERT_NE(arena, nullptr);
    std::atomic<std::uint64_t> over{0};
    std::atomic<std::uint64_t> refusals{0};
    std::vector<std::thread> threads;
    for (unsigned thread = 0; thread < 4; ++thread)
        threads.emplace_back([&, thread] {
            std::mt19937_64 random{thread};
            std::vector<std::pair<void*, std::uint64_t>> mine;
            for (int round = 0; round < (test::k_sanitized ? 1'000 : 20'000); ++round) {
                if (!mine.empty() && random() % 2 == 0) {
                    std::swap(mine[random() % mine.size()], mine.back());
                    if (!arena->free_pages(mine.back().first, PageCount{mine.back().second})) over.fetch_add(1);
                    mine.pop_back();
                    continue;
                }
                const std::uint64_t count = random() % 3 == 0 ? 1 + random() % 20 : 1;
                const auto pages = arena->alloc_pages(PageCount{count}, {.account = accounts[thread % 2]});
                if (pages)
                    mine.emplace_back(*pages, count);
                else
                    refusals.fetch_add(1);
                if (used(root) > k_limit || used(accounts[thread % 2]) > 60) over.fetch_add(1);
            }
        });
    for (std::thread& thread : threads) thread.join();
    EXPECT_EQ(over, 0U);
    EXPECT_GT(refusals, 0U) << "the limits were reached at all";
    EXPECT_LE(root->peak(), PageCount{k_limit});
    EXPECT_EQ(root->used(), arena->statistics().value().used);
    EXPECT_EQ(used(root), used(accounts[0]) + used(accounts[1]));
    arena->kfunc_free_pages(number(arena->data()), 1024);
    EXPECT_EQ(used(root), 0U);
}

TEST(ArenaAccount, what_another_process_frees_is_taken_back_when_room_is_needed_or_statistics_are) {
    const Account account = account_of("payer", 8);
    auto arena = arena_paid_by(account);
    ASSERT_NE(arena, nullptr);
    const auto shared = test::shared_descriptor(*arena);
    ASSERT_TRUE(arena->alloc_pages(PageCount{8}, {.address = page_at(*arena, 0)}));
    test::Peer peer{[&](test::Peer& parent) {
        const auto mine = test::attach_instead(arena, shared.get());
        ASSERT_NE(mine, nullptr);
        ASSERT_TRUE(mine->free_pages(mine->data(), PageCount{3}));
        parent.tell();
        parent.wait();
        mine->kfunc_free_pages(number(page_at(*mine, 3)), 4);
        // Taken by this process: its own account's, that is nobody's.
        ASSERT_TRUE(mine->alloc_pages(PageCount{4}, {.address = page_at(*mine, 3)}));
        parent.tell();
        parent.wait();
    }};
    peer.wait();
    EXPECT_TRUE(test::ok(arena->alloc_pages(PageCount{3}, {.address = page_at(*arena, 20)})));
    EXPECT_EQ(used(account), 8U);
    peer.tell();
    peer.wait();
    EXPECT_EQ(usage(*arena), "8 0");
    EXPECT_EQ(used(account), 4U) << "one of the first eight, and three";
    peer.tell();
    EXPECT_TRUE(peer.ends_well());
    arena.reset();
    EXPECT_EQ(used(account), 0U);
}

class ArenaAccountDeath : public test::FreshProcess {};

TEST_F(ArenaAccountDeath, a_touch_over_the_limit_is_SIGSEGV) {
    EXPECT_EXIT(test::run_as_child([] {
                    (void)std::signal(SIGSEGV, SIG_DFL);
                    (void)std::signal(SIGBUS, SIG_DFL);
                    const Account account = account_of("small", 2);
                    const auto arena = arena_paid_by(account);
                    byte_at(page_at(*arena, 0)) = 1;
                    byte_at(page_at(*arena, 1)) = 1;
                    byte_at(page_at(*arena, 0)) = 2;
                    if (used(account) != 2) std::_Exit(3);
                    byte_at(page_at(*arena, 2)) = 1;
                }),
                ::testing::KilledBySignal(SIGSEGV), "");
}

}  // namespace
}  // namespace harena
