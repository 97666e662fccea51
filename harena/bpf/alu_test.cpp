// SPDX-License-Identifier: Apache-2.0
#include "harena/bpf/alu.hpp"

#include <array>
#include <cstdint>
#include <limits>

#include <gtest/gtest.h>

namespace harena::bpf {

namespace {

using std::uint32_t;
using std::uint64_t;

constexpr uint64_t k_min64 = 1ULL << 63;
constexpr uint32_t k_min32 = 1U << 31;

TEST(Alu, division_by_zero_gives_zero_and_modulo_by_zero_the_dividend) {
    for (const bool is_signed : {false, true}) {
        EXPECT_EQ(alu::binary<uint64_t>(AluOp::div, is_signed, ~0ULL, 0), 0U);
        EXPECT_EQ(alu::binary<uint64_t>(AluOp::mod, is_signed, ~0ULL, 0), ~0ULL);
        EXPECT_EQ(alu::binary<uint32_t>(AluOp::div, is_signed, ~0U, 0), 0U);
        EXPECT_EQ(alu::binary<uint32_t>(AluOp::mod, is_signed, ~0U, 0), ~0U);
    }
}

TEST(Alu, the_most_negative_number_by_minus_one_wraps) {
    EXPECT_EQ(alu::binary<uint64_t>(AluOp::div, true, k_min64, ~0ULL), k_min64);
    EXPECT_EQ(alu::binary<uint64_t>(AluOp::mod, true, k_min64, ~0ULL), 0U);
    EXPECT_EQ(alu::binary<uint32_t>(AluOp::div, true, k_min32, ~0U), k_min32);
    EXPECT_EQ(alu::binary<uint32_t>(AluOp::mod, true, k_min32, ~0U), 0U);
}

TEST(Alu, signed_division_truncates_and_the_remainder_has_the_dividends_sign) {
    const auto u = [](std::int64_t value) { return static_cast<uint64_t>(value); };
    EXPECT_EQ(alu::binary<uint64_t>(AluOp::div, true, u(-7), u(2)), u(-3));
    EXPECT_EQ(alu::binary<uint64_t>(AluOp::mod, true, u(-7), u(2)), u(-1));
    EXPECT_EQ(alu::binary<uint64_t>(AluOp::div, true, u(7), u(-2)), u(-3));
    EXPECT_EQ(alu::binary<uint64_t>(AluOp::mod, true, u(7), u(-2)), u(1));
    EXPECT_EQ(alu::binary<uint64_t>(AluOp::div, false, u(-7), u(2)), 0x7ffffffffffffffcULL);
    EXPECT_EQ(alu::binary<uint64_t>(AluOp::mod, false, u(-7), u(2)), 1U);
}

TEST(Alu, shift_counts_are_masked_to_the_width) {
    for (unsigned count = 0; count < 200; ++count) {
        const unsigned by64 = count % 64;
        const unsigned by32 = count % 32;
        EXPECT_EQ(alu::binary<uint64_t>(AluOp::lsh, false, 0x8000000000000003, count), 0x8000000000000003ULL << by64);
        EXPECT_EQ(alu::binary<uint64_t>(AluOp::rsh, false, 0x8000000000000003, count), 0x8000000000000003ULL >> by64);
        EXPECT_EQ(alu::binary<uint32_t>(AluOp::lsh, false, 0x80000003, count), 0x80000003U << by32);
        EXPECT_EQ(alu::binary<uint32_t>(AluOp::rsh, false, 0x80000003, count), 0x80000003U >> by32);
        const uint64_t ones64 = by64 == 0 ? 0 : ~0ULL << (64 - by64);
        EXPECT_EQ(alu::binary<uint64_t>(AluOp::arsh, false, k_min64, count), (k_min64 >> by64) | ones64);
        const uint32_t ones32 = by32 == 0 ? 0 : ~0U << (32 - by32);
        EXPECT_EQ(alu::binary<uint32_t>(AluOp::arsh, false, k_min32, count), (k_min32 >> by32) | ones32);
    }
    EXPECT_EQ(alu::binary<uint64_t>(AluOp::arsh, false, 0x7000000000000000, 60), 7U);
}

TEST(Alu, sums_and_products_wrap) {
    EXPECT_EQ(alu::binary<uint64_t>(AluOp::add, false, ~0ULL, 2), 1U);
    EXPECT_EQ(alu::binary<uint32_t>(AluOp::sub, false, 0, 1), ~0U);
    EXPECT_EQ(alu::binary<uint64_t>(AluOp::mul, false, ~0ULL, ~0ULL), 1U);
    EXPECT_EQ(alu::binary<uint32_t>(AluOp::mul, false, 0x10001, 0x10001), 0x20001U);
}

TEST(Alu, sign_extension_looks_at_the_low_bits_only) {
    EXPECT_EQ(alu::sign_extend(0x1234567890abcd80, 8), 0xffffffffffffff80ULL);
    EXPECT_EQ(alu::sign_extend(0x1234567890abcd7f, 8), 0x7fULL);
    EXPECT_EQ(alu::sign_extend(0x1234567890ab8000, 16), 0xffffffffffff8000ULL);
    EXPECT_EQ(alu::sign_extend(0x1234567880000000, 32), 0xffffffff80000000ULL);
    EXPECT_EQ(alu::sign_extend(0xf00000007fffffff, 32), 0x7fffffffULL);
}

TEST(Alu, byte_order_truncates_with_and_without_a_swap) {
    constexpr uint64_t k_value = 0x0102030405060708;
    EXPECT_EQ(alu::byte_order(k_value, 16, false), 0x0708U);
    EXPECT_EQ(alu::byte_order(k_value, 16, true), 0x0807U);
    EXPECT_EQ(alu::byte_order(k_value, 32, false), 0x05060708U);
    EXPECT_EQ(alu::byte_order(k_value, 32, true), 0x08070605U);
    EXPECT_EQ(alu::byte_order(k_value, 64, false), k_value);
    EXPECT_EQ(alu::byte_order(k_value, 64, true), 0x0807060504030201U);
}

// Every comparison against the sign of a difference that is computed with more bits.
template <typename Unsigned, typename Signed, typename Wide>
void expect_comparisons_of_a_wider_type() {
    constexpr Unsigned k_min = Unsigned{1} << (std::numeric_limits<Unsigned>::digits - 1);
    const std::array<Unsigned, 7> values{0, 1, 2, k_min - 1, k_min, k_min + 1, std::numeric_limits<Unsigned>::max()};
    for (const Unsigned a : values) {
        for (const Unsigned b : values) {
            const Wide difference = static_cast<Wide>(a) - static_cast<Wide>(b);
            const Wide signed_difference =
                static_cast<Wide>(static_cast<Signed>(a)) - static_cast<Wide>(static_cast<Signed>(b));
            EXPECT_EQ(alu::compare(JmpOp::jeq, a, b), difference == 0);
            EXPECT_EQ(alu::compare(JmpOp::jne, a, b), difference != 0);
            EXPECT_EQ(alu::compare(JmpOp::jgt, a, b), difference > 0);
            EXPECT_EQ(alu::compare(JmpOp::jge, a, b), difference >= 0);
            EXPECT_EQ(alu::compare(JmpOp::jlt, a, b), difference < 0);
            EXPECT_EQ(alu::compare(JmpOp::jle, a, b), difference <= 0);
            EXPECT_EQ(alu::compare(JmpOp::jsgt, a, b), signed_difference > 0);
            EXPECT_EQ(alu::compare(JmpOp::jsge, a, b), signed_difference >= 0);
            EXPECT_EQ(alu::compare(JmpOp::jslt, a, b), signed_difference < 0);
            EXPECT_EQ(alu::compare(JmpOp::jsle, a, b), signed_difference <= 0);
            EXPECT_EQ(alu::compare(JmpOp::jset, a, b), (a & b) > 0);
        }
    }
}

TEST(Alu, comparisons_of_32_bits_are_those_of_whole_numbers) {
    expect_comparisons_of_a_wider_type<uint32_t, std::int32_t, std::int64_t>();
}

TEST(Alu, comparisons_of_64_bits_are_those_of_whole_numbers) {
    __extension__ using Int128 = __int128;
    expect_comparisons_of_a_wider_type<uint64_t, std::int64_t, Int128>();
}

}  // namespace

}  // namespace harena::bpf
