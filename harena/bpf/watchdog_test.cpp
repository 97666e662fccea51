// SPDX-License-Identifier: Apache-2.0
#include "harena/bpf/watchdog.hpp"

#include <atomic>
#include <cstdint>
#include <latch>
#include <memory>
#include <thread>
#include <vector>

#include <gtest/gtest.h>

namespace harena::bpf {

namespace {

constexpr std::uint64_t k_hour_ns = 3'600'000'000'000;

Watchdog& watchdog() {
    const auto instance = Watchdog::instance();
    EXPECT_TRUE(instance) << instance.error().message();
    return **instance;
}

/// Waits for the event itself; a test that waits for ever is ended by ctest.
void wait_for(const std::atomic<bool>& word) {
    while (!word.load(std::memory_order_relaxed)) std::this_thread::yield();
}

TEST(Watchdog, there_is_one) {
    EXPECT_EQ(&watchdog(), &watchdog());
    Watchdog* seen = nullptr;
    std::thread{[&] { seen = &watchdog(); }}.join();
    EXPECT_EQ(seen, &watchdog());
}

TEST(Watchdog, trips_the_soft_word_at_the_budget_and_not_the_hard_one_before_the_grace) {
    RunControl control;
    const Watchdog::Watch watch{watchdog(), control, 0, k_hour_ns};
    wait_for(control.soft);
    EXPECT_FALSE(control.hard.load());
}

TEST(Watchdog, trips_both_when_the_grace_is_over_too) {
    RunControl control;
    const Watchdog::Watch watch{watchdog(), control, 1'000'000, 1'000'000};
    wait_for(control.hard);
    EXPECT_TRUE(control.soft.load());
}

TEST(Watchdog, leaves_a_run_within_its_budget_alone) {
    RunControl over;
    RunControl within;
    const Watchdog::Watch first{watchdog(), within, k_hour_ns, 0};
    const Watchdog::Watch second{watchdog(), over, 0, 0};
    wait_for(over.hard);  // and so a tick has seen both
    EXPECT_FALSE(within.soft.load());
    EXPECT_FALSE(within.hard.load());
}

TEST(Watchdog, a_budget_without_end_does_not_wrap) {
    RunControl endless;
    RunControl over;
    const Watchdog::Watch first{watchdog(), endless, ~0ULL, ~0ULL};
    const Watchdog::Watch second{watchdog(), over, 0, 0};
    wait_for(over.hard);
    EXPECT_FALSE(endless.soft.load());
    RunControl long_grace;
    const Watchdog::Watch third{watchdog(), long_grace, 0, ~0ULL};
    wait_for(long_grace.soft);
    EXPECT_FALSE(long_grace.hard.load());
}

TEST(Watchdog, the_grace_is_time_that_the_thread_runs) {
    RunControl away;
    std::latch watched{1};
    std::latch enough{1};
    std::thread thread{[&] {
        const Watchdog::Watch watch{watchdog(), away, 0, 20'000'000};
        watched.count_down();
        enough.wait();
    }};
    watched.wait();
    wait_for(away.soft);
    {  // 60 ms of the wall's time, in which that thread only waits
        RunControl here;
        const Watchdog::Watch watch{watchdog(), here, 60'000'000, 0};
        wait_for(here.hard);
    }
    EXPECT_FALSE(away.hard.load());
    enough.count_down();
    thread.join();
}

TEST(Watchdog, starts_again_after_a_pause) {
    for (int i = 0; i < 20; ++i) {
        RunControl control;
        const Watchdog::Watch watch{watchdog(), control, 0, 0};
        wait_for(control.hard);
    }
}

TEST(Watchdog, watches_come_and_go_in_any_order) {
    // A watch that is gone is not written to: the sanitizers see it if it is.
    std::vector<std::unique_ptr<RunControl>> controls;
    std::vector<std::unique_ptr<Watchdog::Watch>> watches;
    const auto add = [&] {
        controls.push_back(std::make_unique<RunControl>());
        watches.push_back(std::make_unique<Watchdog::Watch>(watchdog(), *controls.back(), 0, 0));
    };
    for (int i = 0; i < 7; ++i) add();
    for (const std::size_t gone : {3U, 5U, 0U}) {  // the middle, the first, the last
        watches[gone].reset();
        controls[gone].reset();
    }
    for (const std::size_t left : {1U, 2U, 4U, 6U}) wait_for(controls[left]->hard);
    for (const std::size_t gone : {6U, 1U, 2U, 4U}) {
        watches[gone].reset();
        controls[gone].reset();
        add();
        wait_for(controls.back()->hard);
    }
}

TEST(Watchdog, threads_come_and_go) {
    constexpr int k_threads = 8;
    std::latch together{k_threads};
    std::vector<std::thread> threads;
    for (int i = 0; i < k_threads; ++i)
        threads.emplace_back([&] {
            together.arrive_and_wait();
            for (int round = 0; round < 2000; ++round) {
                RunControl control;
                const Watchdog::Watch watch{watchdog(), control, 0, 0};
                if (round % 500 == 0) wait_for(control.hard);
            }
        });
    for (std::thread& thread : threads) thread.join();
}

}  // namespace

}  // namespace harena::bpf
