// SPDX-License-Identifier: Apache-2.0
//
// Arithmetic as programs see it: results for numbers against a model written here, and what comes of arena pointers.
#include <array>
#include <cerrno>
#include <cstdint>
#include <limits>
#include <vector>

#include <gtest/gtest.h>

#include "harena/bpf/engine_test_support.hpp"

namespace harena::bpf {

namespace {

using namespace test;

struct Operation {
    AluOp op;
    std::int16_t off;
};
constexpr std::array k_binary{Operation{AluOp::add, 0},  Operation{AluOp::sub, 0}, Operation{AluOp::mul, 0},
                              Operation{AluOp::div, 0},  Operation{AluOp::div, 1}, Operation{AluOp::mod, 0},
                              Operation{AluOp::mod, 1},  Operation{AluOp::or_, 0}, Operation{AluOp::and_, 0},
                              Operation{AluOp::xor_, 0}, Operation{AluOp::lsh, 0}, Operation{AluOp::rsh, 0},
                              Operation{AluOp::arsh, 0}};

// Values where widths and signs meet.
constexpr std::array<std::uint64_t, 12> k_numbers{0,
                                                  1,
                                                  2,
                                                  31,
                                                  0x7fffffff,
                                                  0x80000000,
                                                  0xffffffff,
                                                  0x100000000,
                                                  0x1'00000021,
                                                  ~0ULL,
                                                  0x8000000000000000,
                                                  0x7fffffffffffffff};

// The model: 128-bit arithmetic, cut to `width` bits.
__extension__ using Wide = __int128;
__extension__ using UnsignedWide = unsigned __int128;

std::uint64_t cut(Wide value, unsigned width) {
    return width == 64 ? static_cast<std::uint64_t>(value) : static_cast<std::uint32_t>(value);
}
Wide as_signed(std::uint64_t value, unsigned width) {
    return width == 64 ? Wide{static_cast<std::int64_t>(value)}
                       : Wide{static_cast<std::int32_t>(static_cast<std::uint32_t>(value))};
}

std::uint64_t model(Operation operation, std::uint64_t left, std::uint64_t right, unsigned width) {
    const std::uint64_t a = cut(Wide{left}, width);
    const std::uint64_t b = cut(Wide{right}, width);
    const unsigned count = static_cast<unsigned>(b % width);
    const bool is_signed = operation.off == 1;
    const Wide wa = is_signed ? as_signed(a, width) : Wide{a};
    const Wide wb = is_signed ? as_signed(b, width) : Wide{b};
    switch (operation.op) {
        case AluOp::add:
            return cut(wa + wb, width);
        case AluOp::sub:
            return cut(wa - wb, width);
        case AluOp::mul:
            return cut(static_cast<Wide>(UnsignedWide{a} * b), width);
        case AluOp::div:
            return b == 0 ? 0 : cut(wa / wb, width);
        case AluOp::mod:
            return b == 0 ? a : cut(wa % wb, width);
        case AluOp::or_:
            return a | b;
        case AluOp::and_:
            return a & b;
        case AluOp::xor_:
            return a ^ b;
        case AluOp::lsh:
            return cut(Wide{a} << count, width);
        case AluOp::rsh:
            return a >> count;
        case AluOp::arsh:
            return cut(as_signed(a, width) >> count, width);
        default:
            return 0;
    }
}

Insn binary(Operation operation, unsigned width, Reg dst, Reg src) {
    return width == 64 ? alu64(operation.op, dst, src, operation.off) : alu32(operation.op, dst, src, operation.off);
}
Insn binary(Operation operation, unsigned width, Reg dst, std::int32_t imm) {
    return width == 64 ? alu64(operation.op, dst, imm, operation.off) : alu32(operation.op, dst, imm, operation.off);
}

std::string describe(Operation operation, unsigned width) {
    return fmt::format("opcode {:#x} off {} width {}", static_cast<unsigned>(operation.op), operation.off, width);
}

Evaluated evaluate(const Code& body) { return test::evaluate(ObjectBuilder{}, body); }
Evaluated evaluate_with_arena(const Code& body) { return test::evaluate(ObjectBuilder{}.arena(4), body); }

/// Runs one program on many pairs: r1 and r2 come from its context, its result goes there.
class Pairs {
public:
    explicit Pairs(Insn operation) {
        ObjectBuilder builder;
        builder.program("main", join({load(Size::dw, r3, r1, 0), load(Size::dw, r4, r1, 8), operation,
                                      store(Size::dw, r1, 16, r3), mov(r0, 0), exit()}));
        auto loaded = builder.load();
        EXPECT_TRUE(loaded) << loaded.error().message();
        if (loaded) loaded_ = std::move(*loaded);
    }
    std::uint64_t operator()(std::uint64_t a, std::uint64_t b) {
        std::array<std::uint64_t, 3> context{a, b, 0};
        EXPECT_TRUE(loaded_.programs.at(0)->run(std::as_writable_bytes(std::span{context})));
        return context[2];
    }

private:
    LoadedObject loaded_;
};

TEST(InterpreterAlu, register_operands_give_the_models_results) {
    for (const unsigned width : {32U, 64U}) {
        for (const Operation operation : k_binary) {
            Pairs pairs{binary(operation, width, r3, r4)};
            for (const std::uint64_t a : k_numbers)
                for (const std::uint64_t b : k_numbers)
                    EXPECT_EQ(pairs(a, b), model(operation, a, b, width))
                        << describe(operation, width) << " of " << a << ", " << b;
        }
    }
}

TEST(InterpreterAlu, immediates_are_sign_extended) {
    constexpr std::array<std::int32_t, 7> k_immediates{0,         1,  -1,
                                                       33,        64, std::numeric_limits<std::int32_t>::min(),
                                                       0x7fffffff};
    for (const unsigned width : {32U, 64U}) {
        for (const Operation operation : k_binary) {
            for (const std::int32_t imm : k_immediates) {
                Pairs pairs{binary(operation, width, r3, imm)};
                const auto extended = static_cast<std::uint64_t>(std::int64_t{imm});
                for (const std::uint64_t a : k_numbers)
                    EXPECT_EQ(pairs(a, 0), model(operation, a, extended, width))
                        << describe(operation, width) << " of " << a << ", " << imm;
            }
        }
    }
}

TEST(InterpreterAlu, moves_copy_truncate_and_extend) {
    constexpr std::uint64_t k_value = 0x8877'6655'c433'a291;
    const auto moved = [&](Insn move) { return evaluate(join({imm64(r2, k_value), imm64(r0, ~0ULL), move})); };
    EXPECT_TRUE(gives(moved(mov(r0, r2)), k_value));
    EXPECT_TRUE(gives(moved(mov32(r0, r2)), 0xc433a291));
    EXPECT_TRUE(gives(moved(mov(r0, -2)), ~1ULL));
    EXPECT_TRUE(gives(moved(alu32(AluOp::mov, r0, -2)), 0xfffffffe));
    EXPECT_TRUE(gives(moved(alu64(AluOp::mov, r0, r2, 8)), 0xffffffffffffff91));
    EXPECT_TRUE(gives(moved(alu64(AluOp::mov, r0, r2, 16)), 0xffffffffffffa291));
    EXPECT_TRUE(gives(moved(alu64(AluOp::mov, r0, r2, 32)), 0xffffffffc433a291));
    EXPECT_TRUE(gives(moved(alu32(AluOp::mov, r0, r2, 8)), 0xffffff91));
    EXPECT_TRUE(gives(moved(alu32(AluOp::mov, r0, r2, 16)), 0xffffa291));
}

TEST(InterpreterAlu, negation_and_byte_swaps_have_the_width_of_their_class) {
    constexpr std::uint64_t k_value = 0x0102030405060708;
    const auto end = [](Class cls, bool big, std::int32_t bits) {
        return insn(make_code(cls, AluOp::end, big), r0, 0, 0, bits);
    };
    const auto of_value = [&](Insn one) { return evaluate(join({imm64(r0, k_value), one})); };
    EXPECT_TRUE(gives(of_value(alu64(AluOp::neg, r0, 0)), 0 - k_value));
    EXPECT_TRUE(gives(of_value(alu32(AluOp::neg, r0, 0)), 0xfaf9f8f8));
    EXPECT_TRUE(gives(of_value(end(Class::alu, false, 16)), 0x0708));
    EXPECT_TRUE(gives(of_value(end(Class::alu, false, 32)), 0x05060708));
    EXPECT_TRUE(gives(of_value(end(Class::alu, false, 64)), k_value));
    EXPECT_TRUE(gives(of_value(end(Class::alu, true, 16)), 0x0807));
    EXPECT_TRUE(gives(of_value(end(Class::alu, true, 32)), 0x08070605));
    EXPECT_TRUE(gives(of_value(end(Class::alu, true, 64)), 0x0807060504030201));
    EXPECT_TRUE(gives(of_value(end(Class::alu64, false, 16)), 0x0807));
    EXPECT_TRUE(gives(of_value(end(Class::alu64, false, 32)), 0x08070605));
    EXPECT_TRUE(gives(of_value(end(Class::alu64, false, 64)), 0x0807060504030201));
    for (const std::uint64_t value : k_numbers)
        EXPECT_TRUE(gives(evaluate(join({imm64(r0, value), alu64(AluOp::neg, r0, 0)})), 0 - value));
}

TEST(InterpreterAlu, conditional_jumps_compare_in_the_width_of_their_class) {
    // r0 = 1 iff the jump is taken. 0x1'00000000 equals 0 in 32 bits only; 0xffffffff is negative in 32 bits only.
    const auto taken = [](std::uint64_t a, Class cls, JmpOp op, std::int32_t imm) {
        return evaluate(join({imm64(r2, a), mov(r0, 1), insn(make_code(cls, op, false), r2, 0, 1, imm), mov(r0, 0)}));
    };
    EXPECT_TRUE(gives(taken(0x100000000, Class::jmp, JmpOp::jeq, 0), 0));
    EXPECT_TRUE(gives(taken(0x100000000, Class::jmp32, JmpOp::jeq, 0), 1));
    EXPECT_TRUE(gives(taken(0xffffffff, Class::jmp, JmpOp::jslt, 0), 0));
    EXPECT_TRUE(gives(taken(0xffffffff, Class::jmp32, JmpOp::jslt, 0), 1));
    EXPECT_TRUE(gives(taken(5, Class::jmp, JmpOp::jlt, -1), 1)) << "the immediate is extended, then unsigned";
    EXPECT_TRUE(gives(taken(0xffffffff, Class::jmp, JmpOp::jge, -1), 0));
    EXPECT_TRUE(gives(taken(0xffffffff, Class::jmp32, JmpOp::jge, -1), 1));
    EXPECT_TRUE(gives(taken(0x8000000000000000, Class::jmp, JmpOp::jset, -1), 1));
    EXPECT_TRUE(gives(taken(0x8000000000000000, Class::jmp32, JmpOp::jset, -1), 0));
}

TEST(InterpreterAlu, long_jumps_take_their_distance_from_the_immediate) {
    EXPECT_TRUE(gives(evaluate(join({mov(r0, 1), insn(k_code_ja32, 0, 0, 0, 1), mov(r0, 2)})), 1));
}

// --- arena pointers
// ---------------------------------------------------------------------------------------------------

constexpr std::uint64_t k_offset = 0x9000'0038;  // some low half, with the sign bit set

/// Code that gives `reg` an arena pointer with `bits` in its low half.
Code arena_pointer(Reg reg, std::uint64_t bits) { return join({imm64(reg, bits), to_program(reg, reg)}); }

// An arena pointer can be dereferenced, a number cannot: pages are absent here, so that the load gives 0 and a fault.
Evaluated dereferenced(const Code& body) { return evaluate_with_arena(join({body, load(Size::b, r0, r0, 0)})); }

TEST(InterpreterAlu, arithmetic_with_an_arena_pointer_is_of_32_bits_and_gives_one) {
    constexpr std::array<std::uint64_t, 5> k_others{0, 1, 33, 0x1'00000024, 0xffffffff'fffffff8};
    for (const unsigned width : {32U, 64U}) {
        for (const Operation operation : k_binary) {
            for (const std::uint64_t other : k_others) {
                const Insn one = binary(operation, width, r0, r2);
                const auto on_the_left = join({arena_pointer(r0, k_offset), imm64(r2, other), one});
                const auto on_the_right = join({imm64(r0, other), arena_pointer(r2, k_offset), one});
                const auto on_both = join({arena_pointer(r0, k_offset), arena_pointer(r2, other), one});
                const auto label = fmt::format("{} with {:#x}", describe(operation, width), other);
                EXPECT_TRUE(gives(evaluate_with_arena(on_the_left), model(operation, k_offset, other, 32))) << label;
                EXPECT_TRUE(gives(evaluate_with_arena(on_the_right), model(operation, other, k_offset, 32))) << label;
                EXPECT_TRUE(gives(evaluate_with_arena(on_both), model(operation, k_offset, other, 32))) << label;
                for (const Code& code : {on_the_left, on_the_right, on_both}) {
                    const Evaluated result = dereferenced(code);
                    EXPECT_TRUE(gives(result, 0)) << label;
                    EXPECT_EQ(result.faults, 1U) << label << ": the result is an arena pointer";
                }
            }
        }
    }
}

TEST(InterpreterAlu, immediates_with_an_arena_pointer_are_cut_to_32_bits) {
    for (const unsigned width : {32U, 64U}) {
        for (const Operation operation : k_binary) {
            for (const std::int32_t imm : {0, 5, -8, 36}) {
                const auto code = join({arena_pointer(r0, k_offset), binary(operation, width, r0, imm)});
                const auto extended = static_cast<std::uint64_t>(std::int64_t{imm});
                EXPECT_TRUE(gives(evaluate_with_arena(code), model(operation, k_offset, extended, 32)))
                    << describe(operation, width) << imm;
                EXPECT_EQ(dereferenced(code).faults, 1U);
            }
        }
    }
}

TEST(InterpreterAlu, the_result_of_arena_arithmetic_stays_in_32_bit_arithmetic) {
    // A number would become 0x1'00000000 in 64 bits.
    EXPECT_TRUE(gives(evaluate_with_arena(join({arena_pointer(r0, 0xfffffff0), add(r0, 8), add(r0, 8)})), 0));
    EXPECT_TRUE(
        gives(evaluate_with_arena(join({arena_pointer(r0, 0), add(r0, -1), alu64(AluOp::rsh, r0, 4)})), 0x0fffffff));
}

// What keeps its width and gives a number: 64-bit arithmetic goes on with all 64 bits, and there is no way to memory.
TEST(InterpreterAlu, negation_swaps_extensions_and_short_moves_of_an_arena_pointer_give_numbers) {
    const auto end = [](Class cls, bool big, std::int32_t bits) {
        return insn(make_code(cls, AluOp::end, big), r0, 0, 0, bits);
    };
    struct Case {
        Insn one;
        std::uint64_t result;
    };
    const std::vector<Case> cases{
        {alu64(AluOp::neg, r0, 0), 0 - k_offset},
        {alu32(AluOp::neg, r0, 0), static_cast<std::uint32_t>(0 - k_offset)},
        {end(Class::alu, false, 16), 0x0038},
        {end(Class::alu, false, 32), k_offset},
        {end(Class::alu, false, 64), k_offset},
        {end(Class::alu, true, 32), 0x38000090},
        {end(Class::alu64, false, 64), 0x3800009000000000},
        {alu64(AluOp::mov, r0, r0, 8), 0x38},
        {alu64(AluOp::mov, r0, r0, 16), 0x38},
        {alu64(AluOp::mov, r0, r0, 32), 0xffffffff90000038},
        {alu32(AluOp::mov, r0, r0, 16), 0x38},
        {mov32(r0, r0), k_offset},
    };
    for (const Case& c : cases) {
        const auto code = join({arena_pointer(r0, k_offset), c.one});
        EXPECT_TRUE(gives(evaluate_with_arena(code), c.result))
            << unsigned{c.one.code} << " " << c.one.imm << " " << c.one.off;
        EXPECT_TRUE(refused(dereferenced(code), EACCES, "invalid mem access 'scalar'"));
        EXPECT_TRUE(
            gives(evaluate_with_arena(join({code, imm64(r2, 1ULL << 40), add(r0, r2)})), c.result + (1ULL << 40)));
    }
}

TEST(InterpreterAlu, a_whole_move_of_an_arena_pointer_is_one) {
    EXPECT_EQ(dereferenced(join({arena_pointer(r2, k_offset), mov(r0, r2)})).faults, 1U);
}

TEST(InterpreterAlu, arena_pointers_are_compared_in_64_bits) {
    const auto taken = [](JmpOp op, std::uint64_t other) {
        return evaluate_with_arena(
            join({arena_pointer(r2, 0xffffffff), imm64(r3, other), mov(r0, 1), jump_if(op, r2, r3, 1), mov(r0, 0)}));
    };
    EXPECT_TRUE(gives(taken(JmpOp::jeq, 0xffffffff), 1));
    EXPECT_TRUE(gives(taken(JmpOp::jeq, ~0ULL), 0));
    EXPECT_TRUE(gives(taken(JmpOp::jsgt, 0), 1)) << "it is not negative";
    EXPECT_TRUE(gives(taken(JmpOp::jlt, 0x1'00000000), 1));
}

TEST(InterpreterAlu, a_cast_to_the_program_keeps_the_low_half) {
    EXPECT_TRUE(gives(evaluate_with_arena(arena_pointer(r0, 0x12345678'9abcdef0)), 0x9abcdef0));
    EXPECT_TRUE(gives(evaluate_with_arena(arena_pointer(r0, 0)), 0));
    EXPECT_TRUE(gives(evaluate_with_arena(arena_pointer(r0, 0x1'00000000)), 0));
    EXPECT_EQ(dereferenced(arena_pointer(r0, 0)).faults, 1U) << "NULL is an arena pointer like any other";
}

class Casts : public ::testing::Test {
protected:
    // What to_user makes of `value`, as a program that stores it would.
    static std::uint64_t to_user_of(std::uint32_t flags, std::uint64_t value, bool by_way_of_program) {
        ObjectBuilder builder;
        builder.arena(4, arena_address(), flags);
        Code body = imm64(r0, value);
        if (by_way_of_program) body.push_back(to_program(r0, r0));
        body.push_back(to_user(r0, r0));
        const Evaluated result = test::evaluate(builder, body);
        EXPECT_EQ(result.error, 0) << result.message;
        return result.value;
    }
    static constexpr std::uint32_t k_mmapable = 1U << 10;
    static constexpr std::uint32_t k_no_user_conv = 1U << 18;
    static constexpr std::uint64_t k_high = arena_address() >> 32 << 32;
};

TEST_F(Casts, a_cast_to_the_user_puts_the_arenas_high_half_in) {
    for (const bool by_way_of_program : {false, true}) {
        EXPECT_EQ(to_user_of(k_mmapable, 0x12345678'9abcdef0, by_way_of_program), k_high | 0x9abcdef0);
        EXPECT_EQ(to_user_of(k_mmapable, 1, by_way_of_program), k_high | 1);
    }
}

TEST_F(Casts, null_stays_null_whatever_its_high_half_was) {
    for (const bool by_way_of_program : {false, true}) {
        EXPECT_EQ(to_user_of(k_mmapable, 0, by_way_of_program), 0U);
        EXPECT_EQ(to_user_of(k_mmapable, 0xabcdef12'00000000, by_way_of_program), 0U);
    }
}

TEST_F(Casts, without_user_conversion_pointers_keep_32_bits) {
    EXPECT_EQ(to_user_of(k_mmapable | k_no_user_conv, 0x12345678'9abcdef0, false), 0x9abcdef0U);
    EXPECT_EQ(to_user_of(k_mmapable | k_no_user_conv, 0, true), 0U);
}

TEST_F(Casts, what_a_cast_to_the_user_gives_is_a_number) {
    EXPECT_TRUE(refused(dereferenced(join({imm64(r0, 64), to_program(r0, r0), to_user(r0, r0)})), EACCES,
                        "invalid mem access 'scalar'"));
}

TEST_F(Casts, there_are_no_casts_without_an_arena) {
    EXPECT_TRUE(refused(evaluate(join({mov(r0, 0), to_program(r0, r0)})), EINVAL, "addr_space_cast"));
    EXPECT_TRUE(refused(evaluate(join({mov(r0, 0), to_user(r0, r0)})), EINVAL, "addr_space_cast"));
}

}  // namespace

}  // namespace harena::bpf
