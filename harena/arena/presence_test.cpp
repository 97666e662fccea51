// SPDX-License-Identifier: Apache-2.0
//
// The states of pages, and what the fault handler finds in each. Faults themselves: arena_fault_test.cpp.
#include "harena/arena/presence.hpp"

#include <sys/mman.h>

#include <atomic>
#include <cerrno>
#include <thread>
#include <vector>

#include "harena/arena/test_support.hpp"
#include "harena/base/os/fault_injection.hpp"

namespace harena {
namespace {

using os::Call;
using os::FailCall;
using os::ScopedFaultInjector;
using test::number;

constexpr PageRange range(std::uint64_t begin, std::uint64_t end) { return {PageIndex{begin}, PageIndex{end}}; }

class PresenceTest : public ::testing::Test {
protected:
    static constexpr std::uint64_t k_pages = 8;

    void SetUp() override { make(false); }
    void make(bool segv_on_fault) {
        presence_.reset();
        window_.reset();
        auto window = Window::reserve(std::nullopt);
        ASSERT_TRUE(window);
        window_.emplace(std::move(*window));
        auto file = ArenaFile::create({.name = "presence",
                                       .pages = PageCount{k_pages},
                                       .user_vm_start = UserAddress{number(window_->base())},
                                       .segv_on_fault = segv_on_fault});
        ASSERT_TRUE(file) << file.error().message();
        auto presence = Presence::create(window_->base(), std::move(*file), charges_, {});
        ASSERT_TRUE(presence) << presence.error().message();
        presence_ = std::move(*presence);
    }

    PageState state(std::uint64_t page) { return presence_->words().load(PageIndex{page}).state(); }
    std::byte* at(std::uint64_t page) { return window_->base() + page * k_page_size; }
    FaultAnswer fault(std::uint64_t page, bool insist = false) {
        return presence_->host_fault(number(at(page)), insist);
    }
    /// Whether there is memory behind the page; the test's process has no handler for a fault on it.
    bool has_memory(std::uint64_t page) {
        unsigned char resident = 0;
        EXPECT_EQ(::mincore(at(page), k_page_size, &resident), 0);
        return (resident & 1) != 0;
    }
    bool claim(PageRange pages) {
        PageIndex blocker;
        return presence_->claim(pages, blocker);
    }
    std::vector<std::uint64_t> drained() {
        std::vector<std::uint64_t> pages;
        presence_->drain_touched([&](PageIndex page) { pages.push_back(page.value()); });
        return pages;
    }

    void set(PageRange pages, PageState state) { presence_->finish(pages, state); }
    /// What an allocation does with pages it has claimed.
    bool populate(PageRange pages) {
        const bool done = presence_->populate(pages).has_value();
        if (done) presence_->finish(pages, PageState::used);
        return done;
    }

    PageCharges charges_{PageCount{k_pages}};
    std::optional<Window> window_;
    std::unique_ptr<Presence> presence_;
};

TEST_F(PresenceTest, a_new_one_is_absent_everywhere) {
    EXPECT_EQ(presence_->pages(), PageCount{k_pages});
    for (std::uint64_t page = 0; page < k_pages; ++page) {
        EXPECT_EQ(state(page), PageState::absent);
        EXPECT_FALSE(has_memory(page));
    }
    EXPECT_TRUE(drained().empty());
    EXPECT_EQ(presence_->host_faults(), 0U);
}

TEST_F(PresenceTest, holds_its_pages_and_not_their_neighbours) {
    const std::uintptr_t begin = number(window_->base());
    EXPECT_TRUE(presence_->holds(begin));
    EXPECT_TRUE(presence_->holds(begin + k_pages * k_page_size - 1));
    EXPECT_FALSE(presence_->holds(begin + k_pages * k_page_size));
    EXPECT_FALSE(presence_->holds(begin - 1));
    EXPECT_FALSE(presence_->holds(0));
}

TEST_F(PresenceTest, claim_takes_all_or_none_and_names_the_blocker) {
    PageIndex blocker;
    ASSERT_TRUE(presence_->claim(range(3, 5), blocker));
    EXPECT_EQ(state(3), PageState::populating);
    EXPECT_FALSE(presence_->claim(range(1, 8), blocker));
    EXPECT_EQ(blocker, PageIndex{3});
    EXPECT_EQ(state(1), PageState::absent);
    EXPECT_EQ(state(2), PageState::absent);
    EXPECT_EQ(state(4), PageState::populating);
    EXPECT_EQ(state(5), PageState::absent);
}

TEST_F(PresenceTest, populate_puts_zeroed_memory_behind_claimed_pages) {
    ASSERT_TRUE(claim(range(2, 5)));
    ASSERT_TRUE(populate(range(2, 5)));
    for (std::uint64_t page = 0; page < k_pages; ++page) {
        const bool populated = page >= 2 && page < 5;
        EXPECT_EQ(state(page), populated ? PageState::used : PageState::absent) << page;
        EXPECT_EQ(has_memory(page), populated) << page;
    }
    EXPECT_TRUE(test::is_zero(at(2), 3 * k_page_size));
}

TEST_F(PresenceTest, populate_clears_memory_that_a_race_left_behind) {
    ASSERT_TRUE(claim(range(2, 3)));
    ASSERT_TRUE(populate(range(2, 3)));
    test::byte_at(at(2)) = 0xff;
    set(range(2, 2 + 1), PageState::absent);  // what the race does: absent, and not punched
    ASSERT_TRUE(claim(range(0, 5)));
    ASSERT_TRUE(populate(range(0, 5)));
    EXPECT_TRUE(test::is_zero(at(0), 5 * k_page_size));
}

TEST_F(PresenceTest, what_a_failed_populate_filled_is_given_back_and_free_again) {
    ASSERT_TRUE(claim(range(2, 3)));
    ASSERT_TRUE(populate(range(2, 3)));
    set(range(2, 2 + 1), PageState::absent);  // makes it three calls for five pages
    ASSERT_TRUE(claim(range(0, 5)));
    FailCall no_memory{Call::uffd_zeropage, ENOMEM, 2};
    {
        const ScopedFaultInjector scope{no_memory};
        const auto populated = presence_->populate(range(0, 5));
        ASSERT_FALSE(populated);
        EXPECT_EQ(populated.error().code, ENOMEM);
    }
    for (std::uint64_t page = 0; page < 5; ++page) EXPECT_EQ(state(page), PageState::populating) << page;
    presence_->unclaim_filled(range(0, 5));
    for (std::uint64_t page = 0; page < 5; ++page) {
        EXPECT_EQ(state(page), PageState::absent) << page;
        EXPECT_FALSE(has_memory(page)) << page;
    }
}

TEST_F(PresenceTest, populate_tries_again_after_EAGAIN) {
    ASSERT_TRUE(claim(range(0, 4)));
    FailCall again{Call::uffd_zeropage, EAGAIN};
    const ScopedFaultInjector scope{again};
    EXPECT_TRUE(populate(range(0, 4)));
    EXPECT_EQ(again.seen(), 2U);
}

TEST_F(PresenceTest, punch_takes_the_memory_away_and_tries_again_after_EINTR) {
    ASSERT_TRUE(claim(range(0, 4)));
    ASSERT_TRUE(populate(range(0, 4)));
    set(range(1, 3), PageState::freeing);
    FailCall interrupted{Call::fallocate, EINTR};
    const ScopedFaultInjector scope{interrupted};
    ASSERT_TRUE(presence_->punch(range(1, 3)));
    EXPECT_TRUE(has_memory(0));
    EXPECT_FALSE(has_memory(1));
    EXPECT_FALSE(has_memory(2));
    EXPECT_TRUE(has_memory(3));
}

TEST_F(PresenceTest, a_touch_of_an_absent_page_makes_it_used_and_is_told_to_the_allocator) {
    EXPECT_EQ(fault(5), FaultAnswer::progress);
    EXPECT_EQ(fault(2), FaultAnswer::progress);
    EXPECT_EQ(state(5), PageState::used);
    EXPECT_TRUE(has_memory(5));
    EXPECT_TRUE(test::is_zero(at(5), k_page_size));
    EXPECT_EQ(drained(), (std::vector<std::uint64_t>{2, 5}));
    EXPECT_TRUE(drained().empty());
    EXPECT_EQ(presence_->host_faults(), 2U);
}

TEST_F(PresenceTest, a_touch_of_a_reserved_page_leaves_it_reserved) {
    set(range(1, 1 + 1), PageState::reserved);
    EXPECT_EQ(fault(1), FaultAnswer::progress);
    EXPECT_EQ(state(1), PageState::reserved);
    EXPECT_TRUE(has_memory(1));
    EXPECT_TRUE(drained().empty());
}

TEST_F(PresenceTest, a_touch_of_a_used_page_is_only_run_again_unless_it_insists) {
    set(range(1, 1 + 1), PageState::used);
    EXPECT_EQ(fault(1), FaultAnswer::retry);
    EXPECT_FALSE(has_memory(1));
    EXPECT_EQ(fault(1, true), FaultAnswer::progress);
    EXPECT_TRUE(has_memory(1));
    EXPECT_EQ(state(1), PageState::used);
    EXPECT_EQ(fault(1, true), FaultAnswer::retry) << "nothing was changed: the caller counts on";
}

TEST_F(PresenceTest, a_touch_completes_the_step_of_a_thread_that_does_not_come_to_an_end) {
    ASSERT_TRUE(claim(range(1, 2)));
    EXPECT_EQ(fault(1), FaultAnswer::progress);
    EXPECT_TRUE(has_memory(1));
    EXPECT_EQ(state(1), PageState::touched) << "who claimed it ends its claim";
    test::byte_at(at(1)) = 1;
    ASSERT_TRUE(populate(range(1, 2)));
    EXPECT_EQ(test::byte_at(at(1)), 0) << "handed out clean";
}

TEST_F(PresenceTest, a_touch_waits_for_a_page_that_is_being_freed) {
    set(range(1, 1 + 1), PageState::freeing);
    std::atomic<bool> answered{false};
    std::thread toucher{[&] {
        EXPECT_EQ(fault(1), FaultAnswer::progress);
        answered = true;
    }};
    for (int turn = 0; turn < 100; ++turn) std::this_thread::yield();
    EXPECT_FALSE(answered);
    ASSERT_TRUE(presence_->punch(range(1, 2)));
    set(range(1, 1 + 1), PageState::absent);
    toucher.join();
    EXPECT_EQ(state(1), PageState::used);
}

// What a touch put into a page that an allocation gives up again is not lost.
TEST_F(PresenceTest, a_page_that_was_touched_while_it_was_claimed_is_used_when_the_claim_is_undone) {
    ASSERT_TRUE(claim(range(1, 3)));
    EXPECT_EQ(fault(1), FaultAnswer::progress);
    test::byte_at(at(1)) = 7;
    presence_->unclaim(range(1, 3));
    EXPECT_EQ(state(1), PageState::used);
    EXPECT_EQ(test::byte_at(at(1)), 7);
    EXPECT_EQ(state(2), PageState::absent);
    EXPECT_EQ(drained(), (std::vector<std::uint64_t>{1}));
}

// Somebody punches what this very thread is about to clear.
TEST_F(PresenceTest, a_touch_of_a_page_that_is_being_cleared_and_has_no_memory_gives_it_some) {
    set(range(1, 2), PageState::clearing);
    EXPECT_EQ(fault(1), FaultAnswer::progress);
    EXPECT_TRUE(has_memory(1));
    EXPECT_EQ(state(1), PageState::clearing);
}

// The thread that frees the page is this one, interrupted: no wait may be for ever.
TEST_F(PresenceTest, a_touch_of_a_page_that_is_freed_for_ever_goes_on) {
    set(range(1, 2), PageState::freeing);
    EXPECT_EQ(fault(1), FaultAnswer::progress);
    EXPECT_EQ(state(1), PageState::freeing);
}

TEST_F(PresenceTest, a_touch_without_memory_is_refused_and_the_page_is_free_again) {
    FailCall no_memory{Call::uffd_zeropage, ENOMEM};
    const ScopedFaultInjector scope{no_memory};
    EXPECT_EQ(fault(3), FaultAnswer::refuse);
    EXPECT_EQ(state(3), PageState::absent);
    EXPECT_EQ(presence_->host_faults(), 0U);
    EXPECT_TRUE(presence_->take_hints_stale()) << "a reader that drained in between took it for used";
    EXPECT_FALSE(presence_->take_hints_stale());
}

TEST_F(PresenceTest, segv_on_fault_refuses_every_touch) {
    make(true);
    EXPECT_EQ(fault(0), FaultAnswer::refuse);
    EXPECT_EQ(state(0), PageState::absent);
    ASSERT_TRUE(claim(range(0, 1)));
    ASSERT_TRUE(populate(range(0, 1)));
    EXPECT_EQ(test::byte_at(at(0)), 0);
}

// Touches of the same pages by many threads: each page is made once.
TEST_F(PresenceTest, one_of_many_touches_makes_the_page) {
    std::atomic<unsigned> ready{0};
    std::vector<std::thread> threads;
    threads.reserve(4);
    for (int i = 0; i < 4; ++i)
        threads.emplace_back([&] {
            ready.fetch_add(1);
            while (ready.load() != 4) std::this_thread::yield();
            for (std::uint64_t page = 0; page < k_pages; ++page) {
                FaultAnswer answer = FaultAnswer::retry;
                while (state(page) != PageState::used) {
                    answer = fault(page);
                    ASSERT_NE(answer, FaultAnswer::refuse);
                }
            }
        });
    for (std::thread& thread : threads) thread.join();
    EXPECT_EQ(drained().size(), k_pages);
    EXPECT_EQ(presence_->host_faults(), k_pages);
    for (std::uint64_t page = 0; page < k_pages; ++page) EXPECT_TRUE(has_memory(page));
}

}  // namespace
}  // namespace harena
