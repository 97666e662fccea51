// SPDX-License-Identifier: Apache-2.0
#include "harena/base/asymmetric_fence.hpp"

#include <array>
#include <thread>

#include <gtest/gtest.h>

namespace harena {
namespace {

struct alignas(64) Flag {
    std::atomic<int> value{0};
};

// The one thing that it promises: not both miss what the other stored. In rounds, so that both are at it at once.
TEST(AsymmetricFence, of_two_that_store_and_then_load_one_sees_the_others_store) {
    AsymmetricFence::prepare();
    constexpr int k_rounds = 3'000;
    Flag frequent;
    Flag seldom;
    Flag begun;
    Flag done;
    int missed_by_frequent = 0;
    std::thread other{[&] {
        for (int round = 1; round <= k_rounds; ++round) {
            while (begun.value.load(std::memory_order_acquire) < round) std::this_thread::yield();
            frequent.value.store(round, std::memory_order_relaxed);
            AsymmetricFence::light();
            missed_by_frequent = seldom.value.load(std::memory_order_relaxed) == round ? 0 : 1;
            done.value.store(round, std::memory_order_release);
        }
    }};
    int both_missed = 0;
    for (int round = 1; round <= k_rounds; ++round) {
        begun.value.store(round, std::memory_order_release);
        seldom.value.store(round, std::memory_order_relaxed);
        const bool fenced = AsymmetricFence::heavy();
        const int missed = frequent.value.load(std::memory_order_relaxed) == round ? 0 : 1;
        while (done.value.load(std::memory_order_acquire) < round) std::this_thread::yield();
        both_missed += fenced && missed != 0 && missed_by_frequent != 0 ? 1 : 0;
    }
    other.join();
    EXPECT_EQ(both_missed, 0);
}

}  // namespace
}  // namespace harena
