// SPDX-License-Identifier: Apache-2.0
// Programs made at random that Linux's verifier accepts: arithmetic, branches, loops, calls, accesses to arena and
// stack.
//
// Registers keep their roles, so that every path into an instruction brings the same kinds: r0 to r4 are numbers, r7
// and r8 arena pointers, r9 the context, r6 counts loops, r5 is scratch. Operands come from the context: the verifier
// does not know them.
#include <array>
#include <random>

#include "tests/differential/build_case.hpp"

namespace harena::bpf::differential {

namespace {

using namespace test;

constexpr std::array k_alu{AluOp::add,  AluOp::sub,  AluOp::mul, AluOp::div, AluOp::mod,  AluOp::or_,
                           AluOp::and_, AluOp::xor_, AluOp::lsh, AluOp::rsh, AluOp::arsh, AluOp::mov};
constexpr std::array k_jumps{JmpOp::jeq, JmpOp::jne,  JmpOp::jgt,  JmpOp::jge,  JmpOp::jset, JmpOp::jlt,
                             JmpOp::jle, JmpOp::jsgt, JmpOp::jsge, JmpOp::jslt, JmpOp::jsle};
constexpr std::array k_sizes{Size::b, Size::h, Size::w, Size::dw};
constexpr std::size_t k_input_words = 16;
constexpr int k_stack_words = 8;
/// Pages that are there when a program begins.
constexpr std::uint64_t k_first_page = 2;
constexpr std::uint64_t k_pages = 3;
constexpr int k_max_branches = 6;
constexpr int k_max_loops = 2;

class Generator {
public:
    explicit Generator(std::uint64_t seed) : random_{seed} {}

    Case generate(std::uint64_t seed) {
        auto made = builder();
        Code body = alloc(arena_address() + k_first_page * k_page_size, k_pages);
        // Something in all registers and stack slots that may be read.
        for (int word = 1; word <= k_stack_words; ++word)
            body.push_back(
                store(Size::dw, r10, static_cast<std::int16_t>(-8 * word), static_cast<std::int32_t>(random_())));
        for (unsigned reg = 0; reg <= 4; ++reg) body.push_back(load(Size::dw, static_cast<Reg>(reg), r9, input()));
        pointer(body, r7);
        pointer(body, r8);
        body.push_back(mov(r6, 0));
        block(body, 10 + below(40), 2);
        for (unsigned reg = 0; reg <= 8; ++reg)
            if (reg != 5) body.push_back(to_context(32 + reg, static_cast<Reg>(reg)));
        for (int word = 1; word <= k_stack_words; ++word) {
            body.push_back(load(Size::dw, r5, r10, static_cast<std::int16_t>(-8 * word)));
            body.push_back(to_context(44 + static_cast<std::size_t>(word), r5));
        }
        made.program("main", join({mov(r9, r1), body, mov32(r0, r0), exit()}));
        made.subprogram("sum", subprogram());
        Case one{.name = fmt::format("generated program {}", seed), .file = made.build()};
        for (std::size_t word = 0; word < k_input_words; ++word) {
            const std::uint64_t value = interesting();
            std::memcpy(&one.context[8 * word], &value, sizeof value);
        }
        return one;
    }

private:
    std::uint64_t below(std::uint64_t bound) { return random_() % bound; }
    bool chance(unsigned percent) { return below(100) < percent; }
    template <typename Table>
    auto pick(const Table& table) {
        return table[below(table.size())];
    }
    Reg number() { return static_cast<Reg>(below(5)); }
    Reg arena() { return chance(50) ? r7 : r8; }
    std::int16_t input() { return static_cast<std::int16_t>(8 * below(k_input_words)); }
    std::int16_t slot() { return static_cast<std::int16_t>(-8 * static_cast<int>(1 + below(k_stack_words))); }
    std::uint64_t interesting() {
        switch (below(6)) {
            case 0:
                return below(64);
            case 1:
                return ~below(64);
            case 2:
                return std::uint64_t{1} << below(64);
            case 3:
                return (std::uint64_t{1} << below(64)) - 1;
            case 4:
                return arena_address() + below(k_arena_pages * k_page_size);
            default:
                return random_();
        }
    }
    std::int32_t immediate() {
        switch (below(4)) {
            case 0:
                return static_cast<std::int32_t>(below(64));
            case 1:
                return -static_cast<std::int32_t>(below(64));
            case 2:
                return static_cast<std::int32_t>(0x80000000U >> below(32));
            default:
                return static_cast<std::int32_t>(random_());
        }
    }
    // Mostly inside the pages that are there, sometimes across their ends, sometimes far out.
    std::int16_t offset() {
        switch (below(5)) {
            case 0:
                return static_cast<std::int16_t>(random_());
            case 1:
                return static_cast<std::int16_t>(4096 - below(16));
            case 2:
                return -static_cast<std::int16_t>(below(16));
            default:
                return static_cast<std::int16_t>(below(2048));
        }
    }

    void pointer(Code& code, Reg reg) {
        const std::uint64_t page = chance(80) ? k_first_page + below(k_pages) : below(k_arena_pages + 2);
        load_imm64(code, reg, arena_address() + page * k_page_size + below(512) * 8);
        code.push_back(to_program(reg, reg));
    }

    // Calls leave r1 to r5 unset: they are filled again.
    void refill(Code& code) {
        for (unsigned reg = 1; reg <= 4; ++reg) code.push_back(load(Size::dw, static_cast<Reg>(reg), r9, input()));
    }

    void block(Code& code, std::uint64_t length, unsigned depth) {
        for (std::uint64_t i = 0; i < length; ++i) statement(code, depth);
    }

    void statement(Code& code, unsigned depth) {
        switch (below(depth > 0 ? 16 : 13)) {
            case 0:
            case 1:
            case 2:
                alu_statement(code, number(), chance(50) ? number() : r5);
                break;
            case 3:
                odd_alu(code);
                break;
            case 4:
                arena_arithmetic(code);
                break;
            case 5:
            case 6:
                code.push_back(load(pick(k_sizes), number(), arena(), offset()));
                break;
            case 7:
                code.push_back(load(k_sizes[below(3)], number(), arena(), offset(), Mode::memsx));
                break;
            case 8:
                code.push_back(store(pick(k_sizes), arena(), offset(), number()));
                break;
            case 9:
                code.push_back(store(pick(k_sizes), arena(), offset(), immediate()));
                break;
            case 10:
                atomic_access(code);
                break;
            case 11:
                stack_access(code);
                break;
            case 12:
                chance(40) ? call(code) : pointer(code, arena());
                break;
            case 13:
            case 14:
                branch(code, depth);
                break;
            default:
                loop(code, depth);
                break;
        }
    }

    void alu_statement(Code& code, Reg dst, Reg src) {
        const AluOp op = pick(k_alu);
        const bool is_64_bit = chance(60);
        const auto off = static_cast<std::int16_t>((op == AluOp::div || op == AluOp::mod) && chance(40) ? 1 : 0);
        if (src != r5) {
            code.push_back(is_64_bit ? alu64(op, dst, src, off) : alu32(op, dst, src, off));
            return;
        }
        std::int32_t imm = immediate();
        if (op == AluOp::lsh || op == AluOp::rsh || op == AluOp::arsh) imm &= is_64_bit ? 63 : 31;
        if ((op == AluOp::div || op == AluOp::mod) && imm == 0) imm = 3;
        code.push_back(is_64_bit ? alu64(op, dst, imm, off) : alu32(op, dst, imm, off));
    }

    void odd_alu(Code& code) {
        const Reg dst = number();
        switch (below(5)) {
            case 0:
                code.push_back(alu64(AluOp::neg, dst, 0));
                break;
            case 1:
                code.push_back(alu32(AluOp::neg, dst, 0));
                break;
            case 2:
                code.push_back(insn(make_code(chance(50) ? Class::alu : Class::alu64, AluOp::end, false), dst, 0, 0,
                                    16 << below(3)));
                break;
            case 3:
                code.push_back(alu64(AluOp::mov, dst, number(), static_cast<std::int16_t>(8 << below(3))));
                break;
            default:
                code.push_back(alu32(AluOp::mov, dst, number(), static_cast<std::int16_t>(8 << below(2))));
                break;
        }
    }

    void arena_arithmetic(Code& code) {
        switch (below(6)) {
            case 0:
                code.push_back(add(arena(), static_cast<std::int32_t>(below(128)) - 64));
                break;
            case 1:
                code.push_back(mov(r7, r8));
                break;
            case 2:  // a number becomes an arena pointer by arithmetic, and a number again by a 32-bit move
                code.push_back(mov(r5, number()));
                code.push_back(alu64(chance(50) ? AluOp::add : AluOp::sub, r5, arena()));
                code.push_back(mov32(number(), r5));
                break;
            case 3:  // what the host would read, in memory
                code.push_back(to_user(r5, arena()));
                code.push_back(store(Size::dw, arena(), static_cast<std::int16_t>(8 * below(128)), r5));
                break;
            case 4:  // and back
                code.push_back(load(Size::dw, r5, arena(), static_cast<std::int16_t>(8 * below(128))));
                code.push_back(to_program(r5, r5));
                code.push_back(load(pick(k_sizes), number(), r5, static_cast<std::int16_t>(below(64))));
                break;
            default: {
                const Reg reg = arena();
                code.push_back(alu64(AluOp::and_, reg, -8));
                break;
            }
        }
    }

    // On a page that is there: what a fault does to the register of a fetching one is in a list of its own.
    void atomic_access(Code& code) {
        load_imm64(code, r5, arena_address() + (k_first_page + below(k_pages)) * k_page_size);
        code.push_back(to_program(r5, r5));
        const Size size = chance(50) ? Size::w : Size::dw;
        const auto at = static_cast<std::int16_t>(8 * below(512));
        switch (below(4)) {
            case 0: {
                constexpr std::array k_plain{AluOp::add, AluOp::or_, AluOp::and_, AluOp::xor_};
                code.push_back(atomic(size, static_cast<std::int32_t>(pick(k_plain)), r5, at, number()));
                break;
            }
            case 1:
                code.push_back(atomic(size, static_cast<std::int32_t>(AluOp::add) | k_atomic_fetch, r5, at, number()));
                break;
            case 2:
                code.push_back(atomic(size, k_atomic_xchg, r5, at, number()));
                break;
            default:
                if (size == Size::w) code.push_back(mov32(r0, r0));  // its upper half is in the list
                code.push_back(atomic(size, k_atomic_cmpxchg, r5, at, number()));
                break;
        }
    }

    void stack_access(Code& code) {
        switch (below(4)) {
            case 0:
                code.push_back(store(Size::dw, r10, slot(), number()));
                break;
            case 1:
                code.push_back(load(Size::dw, number(), r10, slot()));
                break;
            case 2:
                code.push_back(store(Size::dw, r10, slot(), immediate()));
                break;
            default:  // an arena pointer, spilled and filled
                code.push_back(store(Size::dw, r10, -8 * (k_stack_words + 1), arena()));
                code.push_back(load(Size::dw, arena(), r10, -8 * (k_stack_words + 1)));
                break;
        }
    }

    void call(Code& code) {
        code.push_back(mov(r5, r0));
        code.push_back(mov(r3, arena()));
        code.push_back(mov(r4, r5));
        code.push_back(call_function(1));
        refill(code);
    }
    // r0 = f(r1, r2, r3: an arena pointer, r4).
    Code subprogram() {
        Code code{mov(r0, r4), store(Size::dw, r10, -8, r1)};
        for (std::uint64_t i = 0; i < 3 + below(8); ++i) {
            constexpr std::array k_from{r1, r2, r4};
            const AluOp op = pick(std::array{AluOp::add, AluOp::xor_, AluOp::sub, AluOp::mul});
            code.push_back(chance(70) ? alu64(op, r0, pick(k_from)) : alu32(op, r0, pick(k_from)));
        }
        code.push_back(load(pick(k_sizes), r1, r3, offset()));
        code.push_back(add(r0, r1));
        code.push_back(load(Size::dw, r2, r10, -8));
        code.push_back(store(pick(k_sizes), r3, offset(), r2));
        code.push_back(exit());
        return code;
    }

    void branch(Code& code, unsigned depth) {
        if (branches_++ >= k_max_branches) return;  // the verifier follows every path
        Code taken;
        block(taken, 1 + below(6), depth - 1);
        const auto distance = static_cast<std::int16_t>(taken.size() + 1);
        const bool is_32_bit = chance(30);
        const Class cls = is_32_bit ? Class::jmp32 : Class::jmp;
        if (chance(60))
            code.push_back(insn(make_code(cls, pick(k_jumps), true), number(), number(), distance, 0));
        else
            code.push_back(insn(make_code(cls, pick(k_jumps), false), number(), 0, distance, immediate()));
        code.insert(code.end(), taken.begin(), taken.end());
        Code other;
        block(other, below(4), depth - 1);
        code.push_back(jump(static_cast<std::int16_t>(other.size())));
        code.insert(code.end(), other.begin(), other.end());
    }

    // Some rounds, counted in memory that the verifier does not follow: it ends by may_goto for Linux.
    void loop(Code& code, unsigned depth) {
        if (in_loop_ || loops_++ >= k_max_loops) return;
        in_loop_ = true;
        Code round;
        block(round, 1 + below(5), depth - 1);
        in_loop_ = false;
        // r6 is a number that is not known: else the verifier would follow every round.
        code.push_back(load(Size::dw, r6, r9, input()));
        code.push_back(alu64(AluOp::and_, r6, 15));
        const auto length = static_cast<std::int16_t>(round.size());
        code.push_back(may_goto(static_cast<std::int16_t>(length + 3)));
        code.push_back(jump_if(JmpOp::jeq, r6, 0, static_cast<std::int16_t>(length + 2)));
        code.push_back(add(r6, -1));
        code.insert(code.end(), round.begin(), round.end());
        code.push_back(jump(static_cast<std::int16_t>(-length - 4)));
    }

    std::mt19937_64 random_;
    bool in_loop_ = false;
    int branches_ = 0;
    int loops_ = 0;
};

}  // namespace

std::vector<Case> generated_cases(std::uint64_t first_seed, std::uint64_t count) {
    std::vector<Case> cases;
    for (std::uint64_t seed = first_seed; seed < first_seed + count; ++seed)
        cases.push_back(Generator{seed}.generate(seed));
    return cases;
}

}  // namespace harena::bpf::differential
