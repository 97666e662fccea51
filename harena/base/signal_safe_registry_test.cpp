// SPDX-License-Identifier: Apache-2.0
#include "harena/base/signal_safe_registry.hpp"

#include <signal.h>

#include <map>
#include <random>
#include <set>
#include <thread>
#include <vector>

#include <gtest/gtest.h>

namespace harena {
namespace {

struct Record {
    std::uint64_t key;
    std::uint64_t twice;
    std::uint64_t thrice;
};
using Registry = SignalSafeRegistry<Record>;

Record record_of(std::uint64_t key) { return {.key = key, .twice = 2 * key, .thrice = 3 * key}; }
bool whole(const Record& r) { return r.twice == 2 * r.key && r.thrice == 3 * r.key; }

std::multiset<std::uint64_t> keys(const Registry& registry) {
    std::multiset<std::uint64_t> found;
    registry.for_each([&](const Record& r) { found.insert(r.key); });
    return found;
}

TEST(SignalSafeRegistry, an_empty_one_finds_nothing) {
    const Registry registry;
    EXPECT_FALSE(registry.find_if([](const Record&) { return true; }));
}

TEST(SignalSafeRegistry, behaves_like_a_multiset_over_several_chunks) {
    Registry registry;
    std::mt19937_64 random{7};
    std::multimap<std::uint64_t, Registry::Handle> model;
    for (int step = 0; step < 3000; ++step) {
        if (model.empty() || random() % 5 < (step < 1500 ? 4U : 1U)) {
            const std::uint64_t key = random() % 100;
            const auto handle = registry.add(record_of(key));
            ASSERT_TRUE(handle);
            model.emplace(key, *handle);
        } else {
            const auto victim = std::next(model.begin(), static_cast<std::ptrdiff_t>(random() % model.size()));
            registry.remove(victim->second);
            model.erase(victim);
        }
        if (step % 100 != 0) continue;
        std::multiset<std::uint64_t> expected;
        for (const auto& [key, handle] : model) expected.insert(key);
        ASSERT_EQ(keys(registry), expected);
    }
}

TEST(SignalSafeRegistry, find_if_stops_at_the_first_match) {
    Registry registry;
    for (std::uint64_t key = 0; key < 10; ++key) ASSERT_TRUE(registry.add(record_of(key)));
    int asked = 0;
    const auto found = registry.find_if([&](const Record& r) { return ++asked, r.key == 4; });
    ASSERT_TRUE(found);
    EXPECT_EQ(found->thrice, 12U);
    EXPECT_EQ(asked, 5);
}

// Readers see whole records only, always see one that stays, and never see a key twice that is in it once.
TEST(SignalSafeRegistry, readers_beside_two_writers_see_whole_records) {
    Registry registry;
    ASSERT_TRUE(registry.add(record_of(1)));
    for (std::uint64_t key = 1000; key < 1070; ++key) ASSERT_TRUE(registry.add(record_of(key)));
    std::atomic<int> running{2};
    std::vector<std::thread> writers;
    writers.reserve(2);
    for (std::uint64_t writer = 0; writer < 2; ++writer)
        writers.emplace_back([&, writer] {
            std::mt19937_64 random{writer};
            for (int i = 0; i < 20'000; ++i) {
                const auto handle = registry.add(record_of(2 + random() % 500));
                registry.remove(handle.value());
            }
            running.fetch_sub(1);
        });
    std::uint64_t torn = 0;
    std::uint64_t lost = 0;
    while (running.load() != 0) {
        std::size_t stay = 0;
        registry.for_each([&](const Record& r) {
            torn += whole(r) ? 0U : 1U;
            stay += r.key == 1 || r.key >= 1000 ? 1U : 0U;
        });
        lost += stay == 71 ? 0U : 1U;
    }
    for (std::thread& writer : writers) writer.join();
    EXPECT_EQ(torn, 0U);
    EXPECT_EQ(lost, 0U);
    EXPECT_EQ(keys(registry).size(), 71U);
}

Registry* searched = nullptr;
volatile sig_atomic_t in_handler_found = 0;
volatile sig_atomic_t in_handler_torn = 0;

// A handler that interrupts a writer, lock held and slot half written, still gets through and finds the others.
TEST(SignalSafeRegistry, a_signal_handler_may_search_while_its_own_thread_writes) {
    Registry registry;
    ASSERT_TRUE(registry.add(record_of(1)));
    searched = &registry;
    in_handler_found = 0;
    in_handler_torn = 0;
    struct sigaction action{};
    action.sa_handler = [](int) {
        if (searched == nullptr) return;
        searched->for_each([](const Record& r) {
            if (!whole(r)) in_handler_torn = in_handler_torn + 1;
        });
        if (searched->find_if([](const Record& r) { return r.key == 1; })) in_handler_found = in_handler_found + 1;
    };
    struct sigaction before{};
    EXPECT_EQ(::sigaction(SIGUSR1, &action, &before), 0);
    constexpr int k_signals = 2000;
    std::atomic<int> sent{0};
    std::thread sender{[&, target = ::pthread_self()] {
        while (sent.load() < k_signals) {
            ::pthread_kill(target, SIGUSR1);
            sent.fetch_add(1);
        }
    }};
    while (sent.load() < k_signals) {
        const auto handle = registry.add(record_of(2));
        registry.remove(handle.value());
    }
    sender.join();
    EXPECT_EQ(::sigaction(SIGUSR1, &before, nullptr), 0);
    searched = nullptr;
    EXPECT_GT(in_handler_found, 0);
    EXPECT_EQ(in_handler_torn, 0);
}

}  // namespace
}  // namespace harena
