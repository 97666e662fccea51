// SPDX-License-Identifier: Apache-2.0
#include "harena/bpf/disassemble.hpp"

#include <algorithm>
#include <array>
#include <limits>
#include <string>
#include <vector>

#include <gtest/gtest.h>

namespace harena::bpf {
namespace {

Insn insn(unsigned code, unsigned dst, unsigned src, int off, std::int32_t imm) {
    return Insn{.code = static_cast<std::uint8_t>(code),
                .dst = static_cast<std::uint8_t>(dst & 0xf),
                .src = static_cast<std::uint8_t>(src & 0xf),
                .off = static_cast<std::int16_t>(off),
                .imm = imm};
}

std::string text(unsigned code, unsigned dst, unsigned src, int off, std::int32_t imm) {
    const std::array one{insn(code, dst, src, off, imm)};
    return disassemble(one);
}

struct Case {
    Insn insn;
    std::string expected;
};

void expect_all(const std::vector<Case>& cases) {
    for (const Case& c : cases) {
        const std::array one{c.insn};
        EXPECT_EQ(disassemble(one), c.expected) << "opcode " << unsigned{c.insn.code};
    }
}

TEST(Disassemble, arithmetic_shows_registers_by_width) {
    expect_all({
        {insn(0x07, 1, 0, 0, -5), "r1 += -5"},
        {insn(0x0f, 1, 2, 0, 0), "r1 += r2"},
        {insn(0x04, 1, 0, 0, 5), "w1 += 5"},
        {insn(0x0c, 1, 2, 0, 0), "w1 += w2"},
        {insn(0x1f, 3, 4, 0, 0), "r3 -= r4"},
        {insn(0x2f, 3, 4, 0, 0), "r3 *= r4"},
        {insn(0x4f, 3, 4, 0, 0), "r3 |= r4"},
        {insn(0x57, 3, 0, 0, 255), "r3 &= 255"},
        {insn(0x67, 3, 0, 0, 32), "r3 <<= 32"},
        {insn(0x77, 3, 0, 0, 32), "r3 >>= 32"},
        {insn(0xc7, 3, 0, 0, 32), "r3 s>>= 32"},
        {insn(0xaf, 3, 4, 0, 0), "r3 ^= r4"},
        {insn(0x87, 3, 0, 0, 0), "r3 = -r3"},
        {insn(0x84, 3, 0, 0, 0), "w3 = -w3"},
    });
}

TEST(Disassemble, division_says_whether_it_is_signed) {
    expect_all({
        {insn(0x3f, 1, 2, 0, 0), "r1 /= r2"},
        {insn(0x3f, 1, 2, 1, 0), "r1 s/= r2"},
        {insn(0x94, 1, 0, 0, 7), "w1 %= 7"},
        {insn(0x94, 1, 0, 1, 7), "w1 s%= 7"},
        {insn(0x3f, 1, 2, 2, 0), "(invalid offset 2 of a division)"},
    });
}

TEST(Disassemble, moves_show_sign_extension_and_casts) {
    expect_all({
        {insn(0xb7, 1, 0, 0, -1), "r1 = -1"},
        {insn(0xb4, 1, 0, 0, 1), "w1 = 1"},
        {insn(0xbf, 1, 2, 0, 0), "r1 = r2"},
        {insn(0xbc, 1, 2, 0, 0), "w1 = w2"},
        {insn(0xbf, 1, 2, 8, 0), "r1 = (s8)r2"},
        {insn(0xbf, 1, 2, 32, 0), "r1 = (s32)r2"},
        {insn(0xbc, 1, 2, 16, 0), "w1 = (s16)w2"},
        {insn(0xbc, 1, 2, 32, 0), "(invalid offset 32 of mov)"},
        {insn(0xb7, 1, 0, 8, 0), "(invalid offset 8 of mov)"},
        {insn(0xbf, 1, 2, k_off_addr_space_cast, k_cast_to_program), "r1 = addr_space_cast(r2, 0, 1)"},
        {insn(0xbf, 1, 2, k_off_addr_space_cast, k_cast_to_user), "r1 = addr_space_cast(r2, 1, 0)"},
    });
}

TEST(Disassemble, byte_swaps_show_their_width) {
    expect_all({
        {insn(0xd4, 1, 0, 0, 16), "r1 = le16 r1"},
        {insn(0xdc, 1, 0, 0, 32), "r1 = be32 r1"},
        {insn(0xd7, 1, 0, 0, 64), "r1 = bswap64 r1"},
        {insn(0xd7, 1, 0, 0, 8), "(invalid width 8 of bswap)"},
        {insn(0xdf, 1, 0, 0, 64), "(invalid opcode 0xdf)"},
    });
}

TEST(Disassemble, loads_and_stores_show_size_and_place) {
    expect_all({
        {insn(0x79, 1, 2, 8, 0), "r1 = *(u64 *)(r2 + 8)"},
        {insn(0x61, 1, 2, 0, 0), "r1 = *(u32 *)(r2 + 0)"},
        {insn(0x69, 1, 10, -8, 0), "r1 = *(u16 *)(r10 - 8)"},
        {insn(0x71, 1, 2, -32768, 0), "r1 = *(u8 *)(r2 - 32768)"},
        {insn(0x91, 1, 2, 32767, 0), "r1 = *(s8 *)(r2 + 32767)"},
        {insn(0x81, 1, 2, 4, 0), "r1 = *(s32 *)(r2 + 4)"},
        {insn(0x99, 1, 2, 4, 0), "(invalid opcode 0x99)"},
        {insn(0x7b, 10, 1, -8, 0), "*(u64 *)(r10 - 8) = r1"},
        {insn(0x73, 1, 2, 1, 0), "*(u8 *)(r1 + 1) = r2"},
        {insn(0x62, 1, 0, 4, -7), "*(u32 *)(r1 + 4) = -7"},
        {insn(0x28, 0, 0, 0, 12), "r0 = *(u16 *)skb[12]"},
        {insn(0x50, 0, 3, 0, 14), "r0 = *(u8 *)skb[r3 + 14]"},
    });
}

TEST(Disassemble, atomics_show_operation_and_result) {
    expect_all({
        {insn(0xc3, 1, 2, 0, 0x00), "lock *(u32 *)(r1 + 0) += w2"},
        {insn(0xdb, 1, 2, 8, 0x40), "lock *(u64 *)(r1 + 8) |= r2"},
        {insn(0xdb, 1, 2, 8, 0x51), "r2 = atomic64_fetch_and((u64 *)(r1 + 8), r2)"},
        {insn(0xc3, 1, 2, 8, 0xa1), "w2 = atomic_fetch_xor((u32 *)(r1 + 8), w2)"},
        {insn(0xdb, 1, 2, -8, 0xe1), "r2 = atomic64_xchg((u64 *)(r1 - 8), r2)"},
        {insn(0xc3, 1, 2, 0, 0xf1), "w0 = atomic_cmpxchg((u32 *)(r1 + 0), w0, w2)"},
        {insn(0xdb, 1, 2, 0, 0x100), "r1 = load_acquire((u64 *)(r2 + 0))"},
        {insn(0xd3, 1, 2, 0, 0x100), "w1 = load_acquire((u8 *)(r2 + 0))"},
        {insn(0xcb, 1, 2, 2, 0x110), "store_release((u16 *)(r1 + 2), w2)"},
        {insn(0xd3, 1, 2, 0, 0x00), "(invalid size of an atomic operation: 1 bytes)"},
        {insn(0xdb, 1, 2, 0, 0x77), "(invalid atomic operation 0x77)"},
        {insn(0xdb, 1, 2, 0, 0xe0), "(invalid atomic operation 0xe0)"},
    });
}

TEST(Disassemble, jumps_show_condition_and_distance) {
    expect_all({
        {insn(0x05, 0, 0, -3, 0), "goto -3"},
        {insn(0x06, 0, 0, 0, 100000), "gotol +100000"},
        {insn(0x65, 1, 0, 3, 5), "if r1 s> 5 goto +3"},
        {insn(0x1d, 1, 2, 0, 0), "if r1 == r2 goto +0"},
        {insn(0x5e, 1, 2, 7, 0), "if w1 != w2 goto +7"},
        {insn(0x45, 1, 0, 7, 8), "if r1 & 8 goto +7"},
        {insn(0xa6, 1, 0, 7, 8), "if w1 < 8 goto +7"},
        {insn(0xb5, 1, 0, 7, 8), "if r1 <= 8 goto +7"},
        {insn(0xc5, 1, 0, 7, 8), "if r1 s< 8 goto +7"},
        {insn(0xd5, 1, 0, 7, 8), "if r1 s<= 8 goto +7"},
        {insn(0x25, 1, 0, 7, 8), "if r1 > 8 goto +7"},
        {insn(0x35, 1, 0, 7, 8), "if r1 >= 8 goto +7"},
        {insn(0x75, 1, 0, 7, 8), "if r1 s>= 8 goto +7"},
        {insn(0xe5, 0, 0, 4, 0), "may_goto +4"},
        {insn(0xe5, 0, 1, 4, 0), "(invalid condition 1 of a jump)"},
        {insn(0x95, 0, 0, 0, 0), "exit"},
    });
}

TEST(Disassemble, calls_show_what_they_call) {
    expect_all({
        {insn(0x85, 0, 0, 0, 7), "call 7"},
        {insn(0x85, 0, 1, 0, -9), "call pc-9"},
        {insn(0x85, 0, 2, 0, 1234), "call kfunc 1234"},
        {insn(0x85, 0, 2, 3, 1234), "call kfunc 1234 of module 3"},
        {insn(0x85, 0, 3, 0, 7), "(invalid kind 3 of call)"},
        {insn(0x8d, 3, 0, 0, 0), "callx r3"},
    });
}

TEST(Disassemble, sixteen_byte_instructions_need_both_halves) {
    const auto two = [](Insn first, Insn second) { return disassemble(std::array{first, second}); };
    EXPECT_EQ(two(insn(0x18, 1, 0, 0, 0x11223344), insn(0, 0, 0, 0, 0x55667788)), "r1 = 0x5566778811223344");
    EXPECT_EQ(two(insn(0x18, 1, 0, 0, -1), insn(0, 0, 0, 0, 0)), "r1 = 0xffffffff");
    EXPECT_EQ(two(insn(0x18, 1, 1, 0, 4), insn(0, 0, 0, 0, 0)), "r1 = map fd 4");
    EXPECT_EQ(two(insn(0x18, 1, 2, 0, 4), insn(0, 0, 0, 0, 16)), "r1 = value of map fd 4 + 16");
    EXPECT_EQ(two(insn(0x18, 1, 4, 0, -4), insn(0, 0, 0, 0, 0)), "r1 = function -4");
    EXPECT_EQ(two(insn(0x18, 1, 9, 0, 4), insn(0, 0, 0, 0, 0)), "(invalid kind 9 of ld_imm64)");
    EXPECT_EQ(two(insn(0x18, 1, 0, 0, 4), insn(0x95, 0, 0, 0, 0)),
              "(ld_imm64 with an invalid second half, opcode 0x95)");
    EXPECT_EQ(text(0x18, 1, 0, 0, 4), "(ld_imm64 without its second half)");
    EXPECT_EQ(disassemble({}), "(no instruction)");
}

TEST(Disassemble, what_does_not_exist_is_called_invalid) {
    EXPECT_EQ(text(0xff, 0, 0, 0, 0), "(invalid opcode 0xff)");
    EXPECT_EQ(text(0xbf, 11, 0, 0, 0), "(invalid register 11, opcode 0xbf)");
    EXPECT_EQ(text(0x7b, 1, 15, 0, 0), "(invalid register 15, opcode 0x7b)");
    EXPECT_EQ(text(0x0f, 1, 2, 3, 0), "r1 += r2 (invalid: unused fields are not 0)");
    EXPECT_EQ(text(0x07, 1, 2, 0, 3), "r1 += 3 (invalid: unused fields are not 0)");
    EXPECT_EQ(text(0x95, 0, 0, 0, 1), "exit (invalid: unused fields are not 0)");
}

TEST(Disassemble, any_bytes_give_one_printable_line) {
    constexpr std::array offs{0, 1, -1, 2, 8, 16, 32, 32767, -32768};
    const std::vector<std::int32_t> imms{0,
                                         1,
                                         -1,
                                         16,
                                         32,
                                         64,
                                         0xe1,
                                         0xf1,
                                         0x100,
                                         0x110,
                                         0x51,
                                         1 << 16,
                                         0x777,
                                         1000,
                                         std::numeric_limits<std::int32_t>::min(),
                                         std::numeric_limits<std::int32_t>::max()};
    for (unsigned code = 0; code < 256; ++code)
        for (const unsigned registers : {0x00U, 0x21U, 0xa9U, 0x9aU, 0xb0U, 0x0bU, 0x30U, 0xffU})
            for (const int off : offs)
                for (const std::int32_t imm : imms) {
                    const Insn first = insn(code, registers & 15, registers >> 4, off, imm);
                    const std::array pair{first, insn(code == 0x18 ? 0 : code, 0, 0, 0, imm)};
                    for (const std::size_t length : {std::size_t{1}, std::size_t{2}}) {
                        const std::string line = disassemble(std::span{pair}.first(length));
                        ASSERT_FALSE(line.empty());
                        ASSERT_TRUE(std::ranges::all_of(line, [](char c) { return c >= ' ' && c < 0x7f; })) << line;
                        // The second instruction matters to those of 16 bytes only.
                        if (code != 0x18 && length == 2) {
                            ASSERT_EQ(line, disassemble(std::span{pair}.first(1)));
                        }
                    }
                }
}

TEST(Disassemble, every_valid_opcode_and_no_other_has_a_text) {
    // Opcodes of insn.hpp, by class; a reserved opcode must not slip in, nor a valid one get lost.
    unsigned valid = 0;
    for (unsigned code = 0; code < 256; ++code) {
        const std::array pair{insn(code, 0, 0, 0, 16), insn(0, 0, 0, 0, 0)};
        if (!disassemble(pair).starts_with("(invalid opcode")) ++valid;
    }
    // alu and alu64: 11 with both operands, neg, mov with both; end: two in alu, one in alu64.
    constexpr unsigned alu = 2 * (11 * 2 + 1 + 2) + 2 + 1;
    // jmp and jmp32: 11 conditions with both operands; goto, gotol, call, callx, exit, may_goto.
    constexpr unsigned jmp = 2 * (11 * 2) + 6;
    // ld: ld_imm64, three sizes of abs and of ind; ldx: four sizes, three that sign-extend; st: four; stx: four and
    // four atomic.
    constexpr unsigned memory = 7 + 7 + 4 + 8;
    EXPECT_EQ(valid, alu + jmp + memory);
}

}  // namespace
}  // namespace harena::bpf
