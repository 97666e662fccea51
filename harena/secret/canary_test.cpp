// SPDX-License-Identifier: Apache-2.0
#include "harena/secret/canary.hpp"

#include <array>
#include <set>

#include <gtest/gtest.h>

#include "harena/secret/wipe.hpp"

namespace harena {
namespace {

constexpr CanaryKey k_key{.first = 0x0123'4567'89ab'cdef, .second = 0xfedc'ba98'7654'3210};

TEST(Canary, every_changed_byte_is_found_and_none_is_zero) {
    alignas(16) std::array<std::byte, 200> area{};
    const Canary canary{k_key, 7};
    for (std::size_t begin = 0; begin < 40; ++begin) {
        canary.fill(area.data() + begin, area.data() + 150);
        ASSERT_TRUE(canary.intact(area.data() + begin, area.data() + 150));
        for (std::size_t i = begin; i < 150; ++i) {
            ASSERT_NE(area[i], std::byte{0});
            const std::byte before = area[i];
            area[i] ^= std::byte{0x80};
            ASSERT_FALSE(canary.intact(area.data() + begin, area.data() + 150)) << i;
            area[i] = std::byte{0};
            ASSERT_FALSE(canary.intact(area.data() + begin, area.data() + 150)) << i;
            area[i] = before;
        }
    }
}

TEST(Canary, of_a_whole_slot_is_the_same_however_it_is_written) {
    alignas(16) std::array<std::byte, 16> area{};
    const Canary canary{k_key, 3};
    canary.put(area.data());
    EXPECT_TRUE(canary.intact(area.data()));
    EXPECT_TRUE(canary.intact(area.data() + 5, area.data() + 16));
    area[15] ^= std::byte{1};
    EXPECT_FALSE(canary.intact(area.data()));
}

TEST(Canary, differs_from_slot_to_slot_and_from_key_to_key) {
    std::set<std::uint64_t> seen;
    for (std::uint64_t first = 0; first < 100; ++first)
        for (std::uint64_t index = 0; index < 127; ++index) {
            alignas(16) std::array<std::byte, 16> area{};
            Canary{{.first = first << 40, .second = 5}, index}.put(area.data());
            std::uint64_t word = 0;
            std::memcpy(&word, area.data(), sizeof word);
            seen.insert(word);
        }
    EXPECT_EQ(seen.size(), 12'700U);
}

TEST(Canary, keys_that_are_used_have_no_zero_byte) {
    CanaryKey key{.first = 0, .second = 0xff00'ff00'0000'0000};
    Canary::make_usable(key);
    for (unsigned i = 0; i < 8; ++i) {
        EXPECT_NE(key.first >> (8 * i) & 0xff, 0U);
        EXPECT_NE(key.second >> (8 * i) & 0xff, 0U);
    }
}

TEST(Wipe, zeroes_any_range_and_nothing_else) {
    for (const std::size_t size : {0U, 1U, 7U, 8U, 9U, 31U, 256U, 257U, 1000U})
        for (std::size_t begin = 0; begin < 9; ++begin) {
            std::array<unsigned char, 1100> area;
            area.fill(0xa5);
            wipe(area.data() + begin, size);
            for (std::size_t i = 0; i < area.size(); ++i)
                ASSERT_EQ(area[i], i >= begin && i < begin + size ? 0 : 0xa5) << size << ' ' << begin << ' ' << i;
        }
}

TEST(Wipe, happens_at_the_end_of_a_scope) {
    std::array<unsigned char, 40> area;
    area.fill(1);
    {
        const WipedAtEnd wiped{area.data(), 39};
        EXPECT_EQ(area[0], 1);
    }
    EXPECT_EQ(area[0] + area[38], 0);
    EXPECT_EQ(area[39], 1);
}

TEST(EqualInConstantTime, says_what_memcmp_says) {
    std::array<std::byte, 40> a{};
    for (std::size_t size = 0; size <= a.size(); ++size) {
        std::array<std::byte, 40> b = a;
        EXPECT_TRUE(equal_in_constant_time(std::span{a}.first(size), std::span{b}.first(size)));
        for (std::size_t i = 0; i < size; ++i)
            for (unsigned bit = 0; bit < 8; ++bit) {
                b[i] ^= static_cast<std::byte>(1U << bit);
                EXPECT_FALSE(equal_in_constant_time(std::span{a}.first(size), std::span{b}.first(size)));
                b[i] = a[i];
            }
    }
    EXPECT_FALSE(equal_in_constant_time(std::span{a}.first(8), std::span{a}.first(9)));
}

}  // namespace
}  // namespace harena
