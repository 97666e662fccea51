// SPDX-License-Identifier: Apache-2.0
// The arithmetic table: each operation with an arena pointer on the left, on the right, on both sides, and on neither.
#include <array>

#include "tests/differential/build_case.hpp"

namespace harena::bpf::differential {

namespace {

using namespace test;

constexpr std::array<std::uint64_t, 12> k_values{0,
                                                 1,
                                                 2,
                                                 31,
                                                 33,
                                                 0x7fffffff,
                                                 0x80000000,
                                                 0xffffffff,
                                                 0x123456789abcdef0,
                                                 0x7fffffffffffffff,
                                                 0x8000000000000000,
                                                 0xffffffffffffffff};
constexpr std::array<std::int32_t, 9> k_immediates{1, 7, 31, 32, 33, 40, 63, -1, 0x7fffffff};
constexpr std::size_t k_words = k_values.size() * k_values.size() * 2;  // operands, then results: two words a pair
constexpr std::size_t k_bytes = k_words * 8 * 2;

struct Operation {
    const char* name;
    AluOp op;
    std::int16_t off;
};
constexpr std::array k_operations{
    Operation{"add", AluOp::add, 0},      Operation{"sub", AluOp::sub, 0},     Operation{"mul", AluOp::mul, 0},
    Operation{"div", AluOp::div, 0},      Operation{"sdiv", AluOp::div, 1},    Operation{"mod", AluOp::mod, 0},
    Operation{"smod", AluOp::mod, 1},     Operation{"or", AluOp::or_, 0},      Operation{"and", AluOp::and_, 0},
    Operation{"lsh", AluOp::lsh, 0},      Operation{"rsh", AluOp::rsh, 0},     Operation{"xor", AluOp::xor_, 0},
    Operation{"arsh", AluOp::arsh, 0},    Operation{"mov", AluOp::mov, 0},     Operation{"movsx8", AluOp::mov, 8},
    Operation{"movsx16", AluOp::mov, 16}, Operation{"movsx32", AluOp::mov, 32}};

std::vector<std::byte> operands() {
    std::vector<std::byte> context(k_bytes);
    std::size_t at = 0;
    for (const std::uint64_t a : k_values)
        for (const std::uint64_t b : k_values) {
            std::memcpy(&context[at], &a, sizeof a);
            std::memcpy(&context[at + 8], &b, sizeof b);
            at += 16;
        }
    return context;
}

/// Applies `operation` to r1 (and r2) for each pair. The second result word tells the kind of the first: a sum with
/// 2^32 + 1 is made in 32 bits for an arena pointer, in 64 for a number.
Case case_of(std::string name, bool left, bool right, const Code& operation) {
    Code body = imm64(r8, 0x1'0000'0001);
    for (std::size_t pair = 0; pair < k_words / 2; ++pair) {
        const auto in = static_cast<std::int16_t>(16 * pair);
        const auto out = static_cast<std::int16_t>(k_words * 8 + 16 * pair);
        body.push_back(load(Size::dw, r1, r9, in));
        body.push_back(load(Size::dw, r2, r9, static_cast<std::int16_t>(in + 8)));
        if (left) body.push_back(to_program(r1, r1));
        if (right) body.push_back(to_program(r2, r2));
        body.insert(body.end(), operation.begin(), operation.end());
        body.push_back(store(Size::dw, r9, out, r1));
        body.push_back(add(r1, r8));
        body.push_back(store(Size::dw, r9, static_cast<std::int16_t>(out + 8), r1));
    }
    Case one = make_case(std::move(name), builder(), body, k_bytes);
    one.context = operands();
    return one;
}

bool is_move(const Operation& operation) { return operation.op == AluOp::mov; }

void add_binary(std::vector<Case>& cases, const Operation& operation, bool is_64_bit) {
    if (!is_64_bit && operation.off == 32) return;
    const Insn insn =
        is_64_bit ? alu64(operation.op, r1, r2, operation.off) : alu32(operation.op, r1, r2, operation.off);
    for (const auto& [sides, left, right] :
         {std::tuple{"none", false, false}, {"left", true, false}, {"right", false, true}, {"both", true, true}})
        cases.push_back(
            case_of(fmt::format("{}{} arena {}", operation.name, is_64_bit ? 64 : 32, sides), left, right, {insn}));
    if (is_move(operation)) return;
    for (const std::int32_t imm : k_immediates) {
        const bool shifts = operation.op == AluOp::lsh || operation.op == AluOp::rsh || operation.op == AluOp::arsh;
        if (shifts && (imm < 0 || imm > (is_64_bit ? 63 : 31))) continue;  // no valid instruction
        for (const bool left : {false, true}) {
            const Insn with_imm =
                is_64_bit ? alu64(operation.op, r1, imm, operation.off) : alu32(operation.op, r1, imm, operation.off);
            cases.push_back(case_of(fmt::format("{}{} imm {} arena {}", operation.name, is_64_bit ? 64 : 32, imm,
                                                left ? "left" : "none"),
                                    left, false, {with_imm}));
        }
    }
}

void add_unary(std::vector<Case>& cases) {
    for (const bool arena : {false, true}) {
        const char* const side = arena ? "left" : "none";
        cases.push_back(case_of(fmt::format("neg64 arena {}", side), arena, false, {alu64(AluOp::neg, r1, 0)}));
        cases.push_back(case_of(fmt::format("neg32 arena {}", side), arena, false, {alu32(AluOp::neg, r1, 0)}));
        for (const std::int32_t bits : {16, 32, 64}) {
            const auto end = [&](Class cls, bool big) {
                return Code{insn(make_code(cls, AluOp::end, big), r1, 0, 0, bits)};
            };
            cases.push_back(case_of(fmt::format("le{} arena {}", bits, side), arena, false, end(Class::alu, false)));
            cases.push_back(case_of(fmt::format("be{} arena {}", bits, side), arena, false, end(Class::alu, true)));
            cases.push_back(
                case_of(fmt::format("bswap{} arena {}", bits, side), arena, false, end(Class::alu64, false)));
        }
    }
}

/// Jumps: the result is 1 where the condition holds.
void add_comparisons(std::vector<Case>& cases) {
    constexpr std::array k_jumps{JmpOp::jeq,  JmpOp::jne,  JmpOp::jgt,  JmpOp::jge,  JmpOp::jlt, JmpOp::jle,
                                 JmpOp::jset, JmpOp::jsgt, JmpOp::jsge, JmpOp::jslt, JmpOp::jsle};
    for (const JmpOp op : k_jumps)
        for (const Class cls : {Class::jmp, Class::jmp32})
            for (const auto& [sides, left, right] : {std::tuple{"none", false, false},
                                                     {"left", true, false},
                                                     {"right", false, true},
                                                     {"both", true, true}}) {
                const Code compare{mov(r3, 1), insn(make_code(cls, op, true), r1, r2, 1, 0), mov(r3, 0), mov(r1, r3)};
                cases.push_back(case_of(fmt::format("jump {:#x} {} arena {}", static_cast<unsigned>(op),
                                                    cls == Class::jmp ? 64 : 32, sides),
                                        left, right, compare));
            }
}

}  // namespace

std::vector<Case> arithmetic_cases() {
    std::vector<Case> cases;
    for (const Operation& operation : k_operations)
        for (const bool is_64_bit : {true, false}) add_binary(cases, operation, is_64_bit);
    add_unary(cases);
    add_comparisons(cases);
    return cases;
}

}  // namespace harena::bpf::differential
