// SPDX-License-Identifier: Apache-2.0
#include "harena/page/page_ledger.hpp"

#include <array>
#include <atomic>
#include <cerrno>
#include <cstdint>
#include <string>
#include <thread>

#include <gtest/gtest.h>

#include "harena/base/os/fault_injection.hpp"
#include "harena/page/page_account.hpp"

namespace harena {
namespace {

constexpr Site k_allocated = Site::current();
constexpr Site k_freed = Site::current();
constexpr Site k_freed_again = Site::current();

/// The end of a site's file name and its line, as messages have it.
std::string place(const Site& site) { return "page_ledger_test.cpp:" + std::to_string(site.line()); }

class PageLedgerTest : public ::testing::Test {
protected:
    static constexpr std::uint32_t k_pages = 1024;
    static constexpr Order k_order{2};

    Page& hand_out(std::uint32_t first, Order order, PageAccount* account = nullptr, bool unmapped = false) {
        return ledger_.hand_out({.first = Pfn{first}, .order = order, .zero = true}, account, unmapped, k_allocated);
    }
    /// A free as a pool makes it.
    Result<void> take_back(Page& page, Order order, const Site& where) {
        std::uint64_t was = 0;
        if (!ledger_.try_take_back(page, order, was, where))
            return std::unexpected{ledger_.refusal(page, order, PageWord::from(was), where)};
        return {};
    }

    /// A free is refused and leaves everything as it is; a debug build stops, and says `message`, the place of this
    /// free, and what else is `known` of the page.
    void expect_refused(Page& page, Order order, int code, const std::string& message, const std::string& known) {
        const std::uint64_t word = page.load().bits();
        PageAccount* const account = page.account();
        page.owner_data = 99;
        if constexpr (k_debug_checks) {
            EXPECT_DEATH((void)take_back(page, order, k_freed_again),
                         place(k_freed_again) + ": .*" + message + ".*" + known);
            std::uint64_t seen = 0;
            EXPECT_FALSE(ledger_.try_take_back(page, order, seen, k_freed_again));
        } else {
            const auto refused = take_back(page, order, k_freed_again);
            ASSERT_FALSE(refused);
            EXPECT_EQ(refused.error().code(), code);
            EXPECT_NE(refused.error().message().find("page " + std::to_string(pages_.pfn_of(page).value())),
                      std::string::npos)
                << refused.error().message();
        }
        EXPECT_EQ(page.load().bits(), word);
        EXPECT_EQ(page.account(), account);
        EXPECT_EQ(page.owner_data, 99U);
    }

    PageArray pages_ = PageArray::create(k_pages).value();
    PageLedger ledger_ = PageLedger::create(pages_).value();
    std::string never_ = "last allocated at unknown, last freed at unknown";
    std::string allocated_ = "last allocated at .*" + place(k_allocated) + ", last freed at unknown";
    std::string both_ = "last allocated at .*" + place(k_allocated) + ", last freed at .*" + place(k_freed);
};
using PageLedgerDeathTest = PageLedgerTest;

TEST_F(PageLedgerTest, a_block_that_is_handed_out_has_one_reference_and_its_account) {
    PageAccount account{"account"};
    pages_[Pfn{8}].owner_data = 5;  // the last owner's
    const Page& page = hand_out(8, k_order, &account);
    EXPECT_EQ(&page, &pages_[Pfn{8}]);
    EXPECT_EQ(page.load().bits(), (PageWord{.state = BlockState::allocated, .order = k_order, .references = 1}.bits()));
    EXPECT_EQ(page.account(), &account);
    EXPECT_EQ(page.owner_data, 0U);
    EXPECT_FALSE(page.unmapped());
    EXPECT_TRUE(hand_out(16, k_order, nullptr, true).unmapped());
}

TEST_F(PageLedgerTest, a_block_that_is_taken_back_is_cached_and_the_word_says_what_it_was) {
    Page& page = hand_out(8, k_order, nullptr, true);
    std::uint64_t was = 0;
    ASSERT_TRUE(ledger_.try_take_back(page, k_order, was, k_freed));
    const PageWord word = PageWord::from(was);
    EXPECT_EQ(word.state, BlockState::allocated);
    EXPECT_EQ(word.order, k_order);
    EXPECT_TRUE(word.unmapped);
    EXPECT_EQ(page.load().bits(), (PageWord{.state = BlockState::cached, .order = k_order}.bits()));
}

TEST_F(PageLedgerTest, a_block_can_be_handed_out_and_taken_back_again_and_again) {
    for (int i = 0; i < 3; ++i) EXPECT_TRUE(take_back(hand_out(8, k_order), k_order, k_freed));
}

TEST_F(PageLedgerDeathTest, a_double_free_is_EINVAL_while_the_page_is_on_its_way) {
    Page& page = hand_out(8, k_order);
    ASSERT_TRUE(take_back(page, k_order, k_freed));
    expect_refused(page, k_order, EINVAL, "double free of page 8", both_);
}

TEST_F(PageLedgerDeathTest, a_double_free_is_EINVAL_while_the_page_is_free) {
    FreeBlocks blocks{pages_, 0};
    Page& page = hand_out(8, k_order);
    ASSERT_TRUE(take_back(page, k_order, k_freed));
    blocks.give({.first = Pfn{8}, .order = k_order});
    expect_refused(page, k_order, EINVAL, "double free of page 8", both_);
    EXPECT_EQ(blocks.pages(), 4U);
}

TEST_F(PageLedgerDeathTest, a_double_free_is_EINVAL_after_the_page_merged_with_its_buddy) {
    FreeBlocks blocks{pages_, 0};
    blocks.give({.first = Pfn{8}, .order = k_order});
    Page& page = hand_out(12, k_order);
    ASSERT_TRUE(take_back(page, k_order, k_freed));
    blocks.give({.first = Pfn{12}, .order = k_order});
    expect_refused(page, k_order, EINVAL, "free of page 12", both_);
    EXPECT_EQ(blocks.pages(), 8U);
}

TEST_F(PageLedgerDeathTest, a_double_free_is_EINVAL_after_the_page_was_split_for_others) {
    FreeBlocks blocks{pages_, 0};
    Page& page = hand_out(8, k_order);
    ASSERT_TRUE(take_back(page, k_order, k_freed));
    blocks.give({.first = Pfn{8}, .order = k_order});
    Page& small = ledger_.hand_out(*blocks.take_at(Pfn{8}, Order{}), nullptr, false, k_allocated);
    expect_refused(page, k_order, EINVAL, "free of page 8 with order 2: it was allocated with order 0", both_);
    EXPECT_TRUE(take_back(small, Order{}, k_freed));
}

TEST_F(PageLedgerDeathTest, a_free_with_another_order_is_EINVAL) {
    Page& page = hand_out(8, k_order);
    for (const unsigned k : {0U, 1U, 3U, 10U, 255U})
        expect_refused(page, Order{static_cast<std::uint8_t>(k)}, EINVAL,
                       "free of page 8 with order " + std::to_string(k) + ": it was allocated with order 2",
                       allocated_);
    EXPECT_TRUE(take_back(page, k_order, k_freed));
}

TEST_F(PageLedgerDeathTest, a_free_of_the_inside_of_a_block_is_EINVAL) {
    Page& page = hand_out(8, k_order);
    for (const std::uint32_t inside : {9U, 10U, 11U})
        expect_refused(pages_[Pfn{inside}], Order{}, EINVAL, "no allocated block begins there", never_);
    EXPECT_TRUE(take_back(page, k_order, k_freed));
}

TEST_F(PageLedgerDeathTest, a_free_of_a_page_that_was_never_in_the_pool_is_EINVAL) {
    expect_refused(pages_[Pfn{0}], Order{}, EINVAL, "no allocated block begins there", never_);
    expect_refused(pages_[Pfn{k_pages - 1}], Order{}, EINVAL, "no allocated block begins there", never_);
}

TEST_F(PageLedgerDeathTest, a_free_of_a_block_with_more_references_is_EBUSY) {
    Page& page = hand_out(8, k_order);
    const PageWord one = page.load();
    for (const std::uint32_t references : {2U, 3U, ~0U}) {
        PageWord more = one;
        more.references = references;
        page.store(more);
        expect_refused(page, k_order, EBUSY, "it has " + std::to_string(references) + " references", allocated_);
    }
    page.store(one);
    EXPECT_TRUE(take_back(page, k_order, k_freed));
}

TEST_F(PageLedgerDeathTest, a_pointer_to_no_page_is_EINVAL) {
    const auto* const stranger = reinterpret_cast<const Page*>(0x1230);
    if constexpr (k_debug_checks) {
        EXPECT_DEATH((void)PageLedger::not_a_page(stranger, k_freed),
                     place(k_freed) + ": .*0x1230 is not a page of this pool");
    } else {
        const Error error = PageLedger::not_a_page(stranger, k_freed);
        EXPECT_EQ(error.code(), EINVAL);
        EXPECT_NE(error.message().find("0x1230 is not a page of this pool"), std::string::npos) << error.message();
    }
}

class PageLedgerRace : public PageLedgerTest {
protected:
    static constexpr int k_rounds = 20'000;

    /// In each round, two threads free the page at once. Returns in how many rounds none, one and both succeeded.
    std::array<int, 3> race(std::uint32_t references) {
        std::atomic<int> begun{0};
        std::atomic<int> done{0};
        std::array<bool, 2> freed{};
        const auto try_free = [&](const Site& where) {
            std::uint64_t was = 0;
            return ledger_.try_take_back(pages_[Pfn{8}], k_order, was, where);
        };
        std::array<int, 3> rounds{};
        const std::jthread other{[&] {
            for (int round = 1; round <= k_rounds; ++round) {
                while (begun.load() != round) std::this_thread::yield();
                freed[1] = try_free(k_freed_again);
                done = round;
            }
        }};
        for (int round = 1; round <= k_rounds; ++round) {
            Page& page = hand_out(8, k_order);
            page.store({.state = BlockState::allocated, .order = k_order, .references = references});
            begun = round;
            freed[0] = try_free(k_freed);
            while (done.load() != round) std::this_thread::yield();
            ++rounds[std::size_t{freed[0]} + std::size_t{freed[1]}];
            const BlockState after = freed[0] || freed[1] ? BlockState::cached : BlockState::allocated;
            EXPECT_EQ(page.load().state, after);
        }
        return rounds;
    }
};

TEST_F(PageLedgerRace, of_two_frees_of_a_page_at_once_exactly_one_succeeds) {
    EXPECT_EQ(race(1), (std::array{0, k_rounds, 0}));
}

TEST_F(PageLedgerRace, of_two_frees_of_a_page_with_two_references_none_succeeds) {
    EXPECT_EQ(race(2), (std::array{k_rounds, 0, 0}));
}

TEST(PageLedger, without_memory_for_the_places_a_debug_build_says_ENOMEM) {
    const auto pages = PageArray::create(16);
    ASSERT_TRUE(pages);
    os::FailCall failing{os::Call::mmap, ENOMEM};
    const os::ScopedFaultInjector injected{failing};
    const auto ledger = PageLedger::create(*pages);
    EXPECT_EQ(ledger.has_value(), !k_debug_checks) << "a release build keeps no places";
    EXPECT_TRUE(ledger || ledger.error().code() == ENOMEM);
}

}  // namespace
}  // namespace harena
