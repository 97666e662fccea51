// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <array>
#include <cstring>

#include "harena/bpf/test_programs.hpp"
#include "tests/generated/untrusted_program.hpp"

namespace harena::bpf::test {

namespace {

// Helpers whose results could look like an address of the host by chance are left out: clocks and process numbers.
constexpr std::array k_helpers{1, 2, 3, 6, 8, 12, 16, 164, 181, 182};
constexpr std::array k_alu{AluOp::add, AluOp::sub, AluOp::mul, AluOp::div,  AluOp::or_, AluOp::and_,
                           AluOp::lsh, AluOp::rsh, AluOp::mod, AluOp::xor_, AluOp::mov, AluOp::arsh};
constexpr std::array k_jumps{JmpOp::jeq,  JmpOp::jgt, JmpOp::jge, JmpOp::jset, JmpOp::jne, JmpOp::jsgt,
                             JmpOp::jsge, JmpOp::jlt, JmpOp::jle, JmpOp::jslt, JmpOp::jsle};
constexpr std::array k_sizes{Size::b, Size::h, Size::w, Size::dw};
constexpr std::array k_atomics{0x00, 0x01, 0x40, 0x41, 0x50, 0x51, 0xa0, 0xa1, 0xe1, 0xf1, 0x100, 0x110};

class Generator {
public:
    explicit Generator(std::mt19937_64& random) : random_{random} {}

    UntrustedProgram generate() {
        const auto main_length = 8 + below(60);
        emit_function(main_length, true);
        program_.split = static_cast<std::uint32_t>(program_.code.size());
        emit_function(4 + below(20), false);
        fix_jumps();
        return std::move(program_);
    }

private:
    std::uint64_t below(std::uint64_t limit) { return random_() % limit; }
    bool chance(std::uint64_t percent) { return below(100) < percent; }
    template <typename T, std::size_t N>
    T pick(const std::array<T, N>& from) {
        return from[below(N)];
    }
    Reg source() { return static_cast<Reg>(below(chance(10) ? 11 : 10)); }
    Reg destination() { return static_cast<Reg>(below(10)); }
    // The registers that the start of a function fills, mostly.
    Reg pointer() { return chance(70) ? static_cast<Reg>(6 + below(4)) : chance(50) ? r10 : source(); }
    std::int16_t offset() {
        switch (below(6)) {
            case 0:
                return static_cast<std::int16_t>(random_());
            case 1:
                return static_cast<std::int16_t>(-8 * static_cast<int>(1 + below(70)));
            case 2:
                return static_cast<std::int16_t>(below(130));
            case 3:
                return static_cast<std::int16_t>(chance(50) ? 32767 : -32768);
            case 4:
                return static_cast<std::int16_t>(4096 - below(16));
            default:
                return static_cast<std::int16_t>(-static_cast<int>(below(80)));
        }
    }
    // Never a number in the range of addresses, so that one found later is a leak.
    std::int32_t immediate() {
        switch (below(5)) {
            case 0:
                return static_cast<std::int32_t>(random_());
            case 1:
                return static_cast<std::int32_t>(below(64));
            case 2:
                return -static_cast<std::int32_t>(below(64));
            case 3:
                return 4096 * static_cast<std::int32_t>(below(20));
            default:
                return 0;
        }
    }

    void emit(Insn instruction) { program_.code.push_back(instruction); }
    void emit_reference(Reg dst, Resource resource, std::uint32_t detail) {
        program_.uses.push_back(
            {.insn = static_cast<std::uint32_t>(program_.code.size()), .resource = resource, .detail = detail});
        load_imm64(program_.code, dst, 0);
    }
    void emit_kfunc(std::uint32_t which) {
        program_.uses.push_back(
            {.insn = static_cast<std::uint32_t>(program_.code.size()), .resource = Resource::kfunc, .detail = which});
        emit(insn(k_code_call, 0, 2, 0, 0));
    }

    void emit_function(std::uint64_t length, bool is_main) {
        const std::size_t begin = program_.code.size();
        if (is_main && chance(90)) {  // something of each kind in r6 to r9
            emit(mov(r6, r1));
            emit_reference(r7, Resource::data, static_cast<std::uint32_t>(below(97)));
            load_imm64(program_.code, r8, below(1) + (below(20) << 12) + below(4096));
            emit(to_program(r8, r8));
            emit(mov(r9, r10));
            emit(add(r9, -static_cast<std::int32_t>(8 * below(70))));
            for (unsigned reg = 0; reg <= 5; ++reg)
                if (chance(60)) emit(mov(static_cast<Reg>(reg), immediate()));
        }
        while (program_.code.size() < begin + length) emit_any();
        if (chance(90)) emit(mov(r0, immediate()));
        emit(exit());
        ends_.push_back(program_.code.size());
    }

    void emit_any() {
        switch (below(16)) {
            case 0:
            case 1:
                emit(alu64(pick(k_alu), destination(), immediate()));
                break;
            case 2:
            case 3:
                emit(alu64(pick(k_alu), chance(40) ? pointer_destination() : destination(), source()));
                break;
            case 4:
                emit(chance(50) ? alu32(pick(k_alu), destination(), immediate())
                                : alu32(pick(k_alu), destination(), source()));
                break;
            case 5:
                emit_odd_alu();
                break;
            case 6:
            case 7:
                emit(load(pick(k_sizes), destination(), pointer(), offset()));
                break;
            case 8:
                emit(load(k_sizes[below(3)], destination(), pointer(), offset(), Mode::memsx));
                break;
            case 9:
                emit(store(pick(k_sizes), pointer(), offset(), source()));
                break;
            case 10:
                emit(chance(50) ? store(pick(k_sizes), pointer(), offset(), immediate())
                                : store(Size::dw, r10, static_cast<std::int16_t>(-8 * static_cast<int>(1 + below(64))),
                                        source()));
                break;
            case 11:
                emit_atomic();
                break;
            case 12:
                emit_jump();
                break;
            case 13:
                emit_call();
                break;
            case 14:
                emit_reference(destination(), static_cast<Resource>(below(6)), static_cast<std::uint32_t>(below(97)));
                break;
            default:
                if (chance(50)) {
                    emit(chance(70) ? to_program(destination(), source()) : to_user(destination(), source()));
                } else {
                    load_imm64(program_.code, destination(), chance(50) ? random_() >> 24 << 40 : below(1 << 20));
                }
        }
    }
    Reg pointer_destination() { return static_cast<Reg>(6 + below(4)); }

    void emit_odd_alu() {
        switch (below(5)) {
            case 0:
                emit(chance(50) ? alu64(AluOp::neg, destination(), 0) : alu32(AluOp::neg, destination(), 0));
                break;
            case 1:
                emit(insn(make_code(chance(50) ? Class::alu : Class::alu64, AluOp::end, false), destination(), 0, 0,
                          16 << below(3)));
                break;
            case 2:
                emit(alu64(AluOp::mov, destination(), source(), static_cast<std::int16_t>(8 << below(3))));
                break;
            case 3:
                emit(alu32(chance(50) ? AluOp::div : AluOp::mod, destination(), source(), 1));
                break;
            default:
                emit(alu64(chance(50) ? AluOp::div : AluOp::mod, destination(), source(), 1));
                break;
        }
    }
    void emit_atomic() {
        const std::int32_t operation = pick(k_atomics);
        const bool plain = operation >= 0x100;
        const Size size = plain ? pick(k_sizes) : chance(50) ? Size::w : Size::dw;
        const auto aligned = static_cast<std::int16_t>(offset() & ~7);
        if (operation == 0x100) {
            emit(atomic(size, operation, destination(), aligned, pointer()));
        } else {
            emit(atomic(size, operation, pointer(), aligned, destination()));
        }
    }
    void emit_jump() {
        jumps_.push_back(program_.code.size());
        switch (below(8)) {
            case 0:
                emit(jump(0));
                break;
            case 1:
                emit(may_goto(0));
                break;
            case 2:
                emit(insn(k_code_ja32, 0, 0, 0, 0));
                break;
            case 3:
                emit(insn(make_code(Class::jmp32, pick(k_jumps), true), destination(), source(), 0, 0));
                break;
            case 4:
                emit(jump_if(chance(50) ? JmpOp::jeq : JmpOp::jne, pointer(), 0, 0));
                break;
            case 5:
                emit(jump_if(pick(k_jumps), pointer(), pointer(), 0));
                break;
            default:
                emit(jump_if(pick(k_jumps), destination(), immediate(), 0));
                break;
        }
    }
    // Arguments that are right more often than chance would have them.
    void emit_call() {
        switch (below(6)) {
            case 0:
                emit_reference(r1, chance(90) ? Resource::arena_map : Resource::array_map, 0);
                emit(chance(50) ? mov(r2, r8) : mov(r2, 4096 * static_cast<std::int32_t>(below(20))));
                emit(mov(r3, static_cast<std::int32_t>(below(20))));
                emit(mov(r4, -1));
                emit(mov(r5, chance(90) ? 0 : 1));
                emit_kfunc(static_cast<std::uint32_t>(below(3)));
                if (chance(60)) emit(to_program(r8, r0));
                break;
            case 1:
                emit(store(Size::dw, r10, -8, static_cast<std::int32_t>(below(6))));
                if (chance(30)) emit(store(Size::dw, r10, -16, pointer()));
                emit_reference(r1, chance(50) ? Resource::array_map : Resource::hash_map, 0);
                emit(mov(r2, r10));
                emit(add(r2, -8));
                emit(mov(r3, pointer()));
                emit(mov(r4, static_cast<std::int32_t>(below(4))));
                emit(call_helper(static_cast<std::int32_t>(1 + below(3))));
                if (chance(60)) emit(mov(pointer_destination(), r0));
                break;
            case 2:
                emit(mov(r1, static_cast<std::int32_t>(below(20))));
                emit_reference(r2, Resource::function, 1);
                emit(chance(50) ? mov(r3, 0) : mov(r3, r9));
                emit(mov(r4, 0));
                emit(call_helper(181));
                break;
            case 3:
                local_calls_.push_back(program_.code.size());
                emit(call_local(0));
                break;
            case 4:
                emit(mov(r1, r6));
                emit_reference(r2, Resource::program_array, 0);
                emit(mov(r3, static_cast<std::int32_t>(below(3))));
                emit(call_helper(12));
                break;
            default:
                emit(chance(80) ? call_helper(pick(k_helpers)) : insn(k_code_call_register, destination(), 0, 0, 0));
                break;
        }
    }

    [[nodiscard]] bool is_second_half(std::size_t at) const {
        return at > 0 && program_.code[at - 1].code == k_code_ld_imm64 && program_.code[at].code == 0;
    }

    void fix_jumps() {
        for (const std::size_t at : jumps_) {
            const bool in_main = at < ends_[0];
            const std::size_t begin = in_main ? 0 : ends_[0];
            const std::size_t end = in_main ? ends_[0] : ends_[1];
            std::size_t target = begin + below(end - begin);
            while (is_second_half(target)) --target;
            const auto distance =
                static_cast<std::int32_t>(static_cast<std::int64_t>(target) - static_cast<std::int64_t>(at) - 1);
            Insn& jump = program_.code[at];
            if (jump.code == k_code_ja32) {
                jump.imm = distance;
            } else {
                jump.off = static_cast<std::int16_t>(distance);
            }
        }
        for (const std::size_t at : local_calls_)
            program_.code[at].imm =
                static_cast<std::int32_t>(static_cast<std::int64_t>(ends_[0]) - static_cast<std::int64_t>(at) - 1);
    }

    std::mt19937_64& random_;
    UntrustedProgram program_;
    std::vector<std::size_t> jumps_;
    std::vector<std::size_t> local_calls_;
    std::vector<std::size_t> ends_;
};

}  // namespace

UntrustedProgram generate_well_formed(std::mt19937_64& random) { return Generator{random}.generate(); }

UntrustedProgram generate_malformed(std::mt19937_64& random) {
    UntrustedProgram program;
    if (random() % 2 == 0) {
        program.code.resize(1 + random() % 40);
        for (Insn& instruction : program.code) {
            const std::uint64_t bits = random();
            std::memcpy(&instruction, &bits, sizeof bits);
        }
        return program;
    }
    program = generate_well_formed(random);
    for (std::uint64_t changes = 1 + random() % 4; changes > 0; --changes) {
        Insn& instruction = program.code[random() % program.code.size()];
        auto* const bytes = reinterpret_cast<unsigned char*>(&instruction);
        bytes[random() % sizeof instruction] ^= static_cast<unsigned char>(1U << (random() % 8));
    }
    return program;
}

}  // namespace harena::bpf::test
