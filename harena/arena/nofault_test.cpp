// SPDX-License-Identifier: Apache-2.0
//
// Accesses to memory that is there: each does what its name says, at every alignment. Absent memory:
// arena_fault_test.cpp.
#include "harena/arena/nofault.hpp"

#include <array>
#include <cstring>
#include <random>
#include <thread>
#include <vector>

#include "harena/arena/test_support.hpp"
#include "harena/base/fault_context_x86_64.hpp"

namespace harena {
namespace {

using nofault::Atomic;
using test::number;

constexpr std::array k_atomics{Atomic::add,       Atomic::or_,       Atomic::and_,
                               Atomic::xor_,      Atomic::fetch_add, Atomic::fetch_or,
                               Atomic::fetch_and, Atomic::fetch_xor, Atomic::exchange};

std::uint64_t low_bytes(std::uint64_t value, unsigned size) {
    return size == 8 ? value : value & ((std::uint64_t{1} << (8 * size)) - 1);
}

std::uint64_t applied(Atomic operation, std::uint64_t memory, std::uint64_t operand) {
    switch (operation) {
        case Atomic::add:
        case Atomic::fetch_add:
            return memory + operand;
        case Atomic::or_:
        case Atomic::fetch_or:
            return memory | operand;
        case Atomic::and_:
        case Atomic::fetch_and:
            return memory & operand;
        case Atomic::xor_:
        case Atomic::fetch_xor:
            return memory ^ operand;
        case Atomic::exchange:
            return operand;
    }
    return 0;
}

bool fetches(Atomic operation) {
    return operation != Atomic::add && operation != Atomic::or_ && operation != Atomic::and_ &&
           operation != Atomic::xor_;
}

/// 32 bytes, and what they should be.
class NoFault : public ::testing::Test {
protected:
    void SetUp() override {
        ASSERT_TRUE(nofault::register_text());
        for (std::size_t i = 0; i < memory_.size(); ++i) memory_[i] = model_[i] = static_cast<unsigned char>(random_());
    }
    std::uintptr_t at(std::size_t offset) { return number(&memory_[offset]); }
    std::uint64_t model(std::size_t offset, unsigned size) {
        std::uint64_t value = 0;
        std::memcpy(&value, &model_[offset], size);
        return value;
    }
    void set_model(std::size_t offset, unsigned size, std::uint64_t value) {
        std::memcpy(&model_[offset], &value, size);
    }

    std::mt19937_64 random_{3};
    alignas(64) std::array<unsigned char, 32> memory_{};
    std::array<unsigned char, 32> model_{};
};

TEST_F(NoFault, loads_are_zero_extended) {
    for (const unsigned size : {1U, 2U, 4U, 8U})
        for (std::size_t offset = 0; offset <= 16; ++offset) {
            const auto access = nofault::load(at(offset), size);
            EXPECT_EQ(access.faulted, 0U);
            EXPECT_EQ(access.value, model(offset, size)) << size << " at " << offset;
        }
}

TEST_F(NoFault, stores_write_their_bytes_and_no_others) {
    for (const unsigned size : {1U, 2U, 4U, 8U})
        for (std::size_t offset = 0; offset <= 16; ++offset) {
            const std::uint64_t value = random_();
            EXPECT_EQ(nofault::store(at(offset), size, value).faulted, 0U);
            set_model(offset, size, value);
            EXPECT_EQ(memory_, model_) << size << " at " << offset;
        }
}

TEST_F(NoFault, atomics_change_memory_and_the_fetching_ones_return_what_was_there) {
    for (const Atomic operation : k_atomics)
        for (const unsigned size : {4U, 8U})
            for (const std::size_t offset : {0U, 4U, 8U, 16U}) {
                const std::uint64_t operand = random_();
                const std::uint64_t old = model(offset, size);
                const auto access = nofault::atomic(operation, at(offset), size, operand);
                EXPECT_EQ(access.faulted, 0U);
                if (fetches(operation)) {
                    EXPECT_EQ(access.value, old) << static_cast<int>(operation) << " " << size;
                }
                set_model(offset, size, applied(operation, old, operand));
                EXPECT_EQ(memory_, model_) << static_cast<int>(operation) << " " << size;
            }
}

TEST_F(NoFault, compare_exchange_writes_on_equality_and_returns_the_old_content_zero_extended) {
    for (const unsigned size : {4U, 8U})
        for (int turn = 0; turn < 100; ++turn) {
            const std::uint64_t old = model(8, size);
            const bool equal = turn % 2 == 0;
            // The high half of a 32-bit comparison does not count.
            std::uint64_t expected = equal ? old : old + 1;
            if (size == 4) expected = low_bytes(expected, 4) | random_() << 32;
            const std::uint64_t desired = random_();
            const auto access = nofault::compare_exchange(at(8), size, expected, desired);
            EXPECT_EQ(access.faulted, 0U);
            EXPECT_EQ(access.value, old);
            if (equal) set_model(8, size, desired);
            EXPECT_EQ(memory_, model_) << size << " " << turn;
        }
}

TEST_F(NoFault, atomics_of_two_threads_lose_nothing) {
    constexpr std::uint64_t k_rounds = 20'000;
    std::memset(memory_.data(), 0, memory_.size());
    std::vector<std::thread> threads;
    threads.reserve(2);
    for (std::uint64_t thread = 0; thread < 2; ++thread)
        threads.emplace_back([&, thread] {
            for (std::uint64_t i = 0; i < k_rounds; ++i) {
                nofault::atomic(Atomic::fetch_add, at(0), 8, 1);
                nofault::atomic(Atomic::add, at(8), 4, 1);
                // Each thread turns a bit of its own on and off, in a word that both change.
                nofault::atomic(Atomic::fetch_or, at(16), 8, std::uint64_t{1} << thread);
                nofault::atomic(Atomic::fetch_xor, at(16), 8, std::uint64_t{4} << thread);
                nofault::atomic(Atomic::fetch_and, at(16), 8, ~(std::uint64_t{1} << thread));
            }
        });
    for (std::thread& thread : threads) thread.join();
    EXPECT_EQ(nofault::load(at(0), 8).value, 2 * k_rounds);
    EXPECT_EQ(nofault::load(at(8), 4).value, 2 * k_rounds);
    EXPECT_EQ(nofault::load(at(16), 8).value, 0U);
}

TEST_F(NoFault, text_is_registered_once_however_often_it_is_asked_for) {
    ASSERT_TRUE(nofault::register_text());
    ASSERT_TRUE(nofault::register_text());
}

}  // namespace
}  // namespace harena
