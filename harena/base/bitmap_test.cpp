// SPDX-License-Identifier: Apache-2.0
#include "harena/base/bitmap.hpp"

#include <algorithm>
#include <random>
#include <set>
#include <thread>
#include <vector>

#include <gtest/gtest.h>

namespace harena {
namespace {

std::size_t naive_find(const std::vector<bool>& bits, std::size_t from, bool value) {
    while (from < bits.size() && bits[from] != value) ++from;
    return std::min(from, bits.size());
}

void expect_same(const Bitmap& bitmap, const std::vector<bool>& model) {
    ASSERT_EQ(bitmap.size(), model.size());
    ASSERT_EQ(bitmap.count(), static_cast<std::size_t>(std::count(model.begin(), model.end(), true)));
    for (std::size_t i = 0; i < model.size(); ++i) {
        ASSERT_EQ(bitmap.test(i), model[i]) << i;
        ASSERT_EQ(bitmap.find_next_set(i), naive_find(model, i, true)) << i;
        ASSERT_EQ(bitmap.find_next_clear(i), naive_find(model, i, false)) << i;
    }
}

class BitmapSizes : public ::testing::TestWithParam<std::size_t> {};
INSTANTIATE_TEST_SUITE_P(Edges, BitmapSizes, ::testing::Values(1, 2, 63, 64, 65, 127, 128, 129, 200, 1000));

TEST_P(BitmapSizes, behaves_like_a_vector_of_bool) {
    const std::size_t size = GetParam();
    std::mt19937_64 random{size};
    Bitmap bitmap{size};
    std::vector<bool> model(size);
    expect_same(bitmap, model);
    for (int step = 0; step < 200; ++step) {
        std::size_t begin = random() % (size + 1);
        std::size_t end = random() % (size + 1);
        if (begin > end) std::swap(begin, end);
        const bool value = random() % 2 == 0;
        if (random() % 3 == 0 && begin < size) {
            end = begin + 1;
            value ? bitmap.set(begin) : bitmap.clear(begin);
        } else {
            value ? bitmap.set_range(begin, end) : bitmap.clear_range(begin, end);
        }
        std::fill(model.begin() + static_cast<std::ptrdiff_t>(begin), model.begin() + static_cast<std::ptrdiff_t>(end),
                  value);
        if (step % 10 == 0) expect_same(bitmap, model);
    }
    expect_same(bitmap, model);
}

TEST_P(BitmapSizes, a_full_bitmap_has_no_clear_bit_not_even_past_its_end) {
    Bitmap bitmap{GetParam()};
    bitmap.set_range(0, bitmap.size());
    EXPECT_EQ(bitmap.count(), bitmap.size());
    EXPECT_EQ(bitmap.find_next_clear(0), bitmap.size());
    bitmap.clear_range(0, bitmap.size());
    EXPECT_EQ(bitmap.count(), 0U);
    EXPECT_EQ(bitmap.find_next_set(0), bitmap.size());
}

TEST(Bitmap, searches_from_the_end_or_beyond_find_nothing) {
    Bitmap bitmap{70};
    bitmap.set_range(0, 70);
    for (const std::size_t from : {70U, 71U, 128U, 1000U}) {
        EXPECT_EQ(bitmap.find_next_set(from), 70U);
        EXPECT_EQ(bitmap.find_next_clear(from), 70U);
    }
}

TEST(Bitmap, an_empty_one_holds_nothing) {
    const Bitmap bitmap;
    EXPECT_EQ(bitmap.size(), 0U);
    EXPECT_EQ(bitmap.count(), 0U);
    EXPECT_EQ(bitmap.find_next_set(0), 0U);
    EXPECT_EQ(bitmap.find_next_clear(0), 0U);
}

std::vector<std::size_t> drained(AtomicIntake& intake) {
    std::vector<std::size_t> numbers;
    intake.drain([&](std::size_t number) { numbers.push_back(number); });
    return numbers;
}

TEST(AtomicIntake, drains_each_number_once_in_ascending_order) {
    AtomicIntake intake{100'000};
    for (const std::size_t number : {99'999U, 0U, 63U, 64U, 4095U, 4096U, 64U, 50'000U}) intake.insert(number);
    EXPECT_EQ(drained(intake), (std::vector<std::size_t>{0, 63, 64, 4095, 4096, 50'000, 99'999}));
    EXPECT_TRUE(drained(intake).empty());
    intake.insert(64);
    EXPECT_EQ(drained(intake), std::vector<std::size_t>{64});
}

TEST(AtomicIntake, behaves_like_a_set) {
    for (const std::size_t size : {1U, 64U, 4096U, 4097U, 20'000U}) {
        std::mt19937_64 random{size};
        AtomicIntake intake{size};
        for (int round = 0; round < 50; ++round) {
            std::set<std::size_t> model;
            for (std::size_t i = random() % 100; i > 0; --i) {
                const std::size_t number = random() % size;
                intake.insert(number);
                model.insert(number);
            }
            ASSERT_EQ(drained(intake), std::vector<std::size_t>(model.begin(), model.end()));
        }
    }
}

// Every number comes out, and no more often than it was put in, while two threads insert beside the reader.
TEST(AtomicIntake, loses_no_number_that_is_inserted_beside_a_drain) {
    constexpr std::size_t k_size = 3 * 4096;
    constexpr std::size_t k_rounds = 20;
    AtomicIntake intake{k_size};
    std::atomic<unsigned> running{2};
    std::vector<std::thread> writers;
    writers.reserve(2);
    for (std::size_t writer = 0; writer < 2; ++writer)
        writers.emplace_back([&, writer] {
            for (std::size_t round = 0; round < k_rounds; ++round)
                for (std::size_t i = writer; i < k_size; i += 2) intake.insert(i);
            running.fetch_sub(1);
        });
    std::vector<std::size_t> seen(k_size);
    const auto drain = [&] { intake.drain([&](std::size_t number) { ++seen.at(number); }); };
    while (running.load() != 0) drain();
    drain();
    for (std::thread& writer : writers) writer.join();
    EXPECT_TRUE(drained(intake).empty());
    for (std::size_t i = 0; i < k_size; ++i) {
        ASSERT_GE(seen[i], 1U) << i;
        ASSERT_LE(seen[i], k_rounds) << i;
    }
}

// What one thread inserted before it told the reader is in the drain that follows, whatever other threads insert.
TEST(AtomicIntake, a_drain_sees_what_was_inserted_before_it_began) {
    constexpr std::size_t k_rounds = 3'000;
    AtomicIntake intake{8192};
    std::atomic<bool> stop{false};
    std::thread noise{[&] {
        while (!stop) intake.insert(5000);
    }};
    std::atomic<std::size_t> inserted{0};
    std::atomic<std::size_t> drained_round{0};
    std::thread writer{[&] {
        for (std::size_t round = 1; round <= k_rounds; ++round) {
            intake.insert(round % 4000);
            inserted.store(round, std::memory_order_release);
            while (drained_round.load(std::memory_order_acquire) != round) std::this_thread::yield();
        }
    }};
    std::size_t missing = 0;
    for (std::size_t round = 1; round <= k_rounds; ++round) {
        while (inserted.load(std::memory_order_acquire) != round) std::this_thread::yield();
        bool found = false;
        intake.drain([&](std::size_t number) { found |= number == round % 4000; });
        missing += found ? 0U : 1U;
        drained_round.store(round, std::memory_order_release);
    }
    stop = true;
    writer.join();
    noise.join();
    EXPECT_EQ(missing, 0U);
}

}  // namespace
}  // namespace harena
