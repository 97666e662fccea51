// SPDX-License-Identifier: Apache-2.0
#include "harena/bpf/validate.hpp"

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdint>
#include <initializer_list>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "harena/bpf/engine_test_support.hpp"

namespace harena::bpf {

namespace {

using namespace test;

bool knows_helper(std::int32_t id) { return id == 1 || id == 181; }

Result<void> check(const ObjectFile& file) { return validate(file, &knows_helper); }
Result<void> check(const Code& code) { return check(ObjectBuilder{}.function("main", code).file()); }

// --- the table of valid encodings, from RFC 9669 and the kernel's documentation
// ---------------------------------------

enum class Register : std::uint8_t {
    zero,      // must be 0
    any,       // r0 to r10
    writable,  // r0 to r9
};
enum class Field : std::uint8_t {
    zero,
    any,
    one_of,  // `Form::values`
    jump,    // lands on an instruction
};
struct Form {
    Register dst;
    Register src;
    Field off;
    Field imm;
    std::vector<std::int32_t> values{};
};

/// The forms that each code has; none: the code is unknown. Code 0x18 (ld_imm64) and calls other than of helpers have
/// tests of their own.
std::vector<std::vector<Form>> valid_forms() {
    using enum Register;
    std::vector<std::vector<Form>> forms(256);
    // Arithmetic: 0x04 (32 bits) and 0x07 (64 bits), 0x08 set for a register operand.
    for (const unsigned cls : {0x04U, 0x07U}) {
        for (const unsigned op : {0x00U, 0x10U, 0x20U, 0x40U, 0x50U, 0x60U, 0x70U, 0xa0U, 0xc0U}) {
            forms[cls | op] = {{writable, zero, Field::zero, Field::any}};
            forms[cls | op | 0x08U] = {{writable, any, Field::zero, Field::zero}};
        }
        for (const unsigned op : {0x30U, 0x90U}) {  // div and mod: off 1 is signed
            forms[cls | op] = {{writable, zero, Field::zero, Field::any},
                               {writable, zero, Field::one_of, Field::any, {1}}};
            forms[cls | op | 0x08U] = {{writable, any, Field::zero, Field::zero},
                                       {writable, any, Field::one_of, Field::zero, {1}}};
        }
        forms[cls | 0x80U] = {{writable, zero, Field::zero, Field::zero}};                  // neg
        forms[cls | 0xb0U] = {{writable, zero, Field::zero, Field::any}};                   // mov
        forms[cls | 0xd0U] = {{writable, zero, Field::zero, Field::one_of, {16, 32, 64}}};  // le, bswap
    }
    forms[0xbc] = {{writable, any, Field::one_of, Field::zero, {0, 8, 16}}};         // mov32, movsx32
    forms[0xbf] = {{writable, any, Field::one_of, Field::zero, {0, 8, 16, 32}}};     // mov, movsx
    forms[0xbf].push_back({writable, any, Field::zero, Field::one_of, {1, 65536}});  // addr_space_cast: see below
    forms[0xdc] = {{writable, zero, Field::zero, Field::one_of, {16, 32, 64}}};      // be
    // Jumps: 0x05 (64 bits) and 0x06 (32 bits).
    for (const unsigned cls : {0x05U, 0x06U}) {
        for (const unsigned op : {0x10U, 0x20U, 0x30U, 0x40U, 0x50U, 0x60U, 0x70U, 0xa0U, 0xb0U, 0xc0U, 0xd0U}) {
            forms[cls | op] = {{any, zero, Field::jump, Field::any}};
            forms[cls | op | 0x08U] = {{any, any, Field::jump, Field::zero}};
        }
    }
    forms[0x05] = {{zero, zero, Field::jump, Field::zero}};
    forms[0x06] = {{zero, zero, Field::zero, Field::jump}};
    forms[0xe5] = {{zero, zero, Field::jump, Field::zero}};
    forms[0x95] = {{zero, zero, Field::zero, Field::zero}};
    forms[0x85] = {{zero, zero, Field::zero, Field::one_of, {1, 181}}};  // helpers
    forms[0x8d] = {{any, zero, Field::zero, Field::zero}};               // callx
    // Memory.
    for (const unsigned size : {0x00U, 0x08U, 0x10U, 0x18U}) {
        forms[0x61U | size] = {{writable, any, Field::any, Field::zero}};                     // ldx
        forms[0x62U | size] = {{any, zero, Field::any, Field::any}};                          // st
        forms[0x63U | size] = {{any, any, Field::any, Field::zero}};                          // stx
        if (size != 0x18U) forms[0x81U | size] = {{writable, any, Field::any, Field::zero}};  // ldxsx
        forms[0xc3U | size] = {{writable, any, Field::any, Field::one_of, {0x100}},
                               {any, any, Field::any, Field::one_of, {0x110}}};
        if (size == 0x00U || size == 0x18U) {
            forms[0xc3U | size].push_back({any, any, Field::any, Field::one_of, {0x00, 0x40, 0x50, 0xa0, 0xf1}});
            forms[0xc3U | size].push_back({any, writable, Field::any, Field::one_of, {0x01, 0x41, 0x51, 0xa1, 0xe1}});
        }
    }
    return forms;
}

bool fits(Register wanted, unsigned reg) {
    return wanted == Register::zero ? reg == 0 : reg <= (wanted == Register::any ? 10U : 9U);
}
bool fits(Field wanted, std::int32_t value, const std::vector<std::int32_t>& values) {
    switch (wanted) {
        case Field::zero:
            return value == 0;
        case Field::any:
            return true;
        case Field::one_of:
            return std::ranges::find(values, value) != values.end();
        case Field::jump:
            return value >= -2 && value <= 1;  // from instruction 1 of 4
    }
    return false;
}
bool is_valid(const std::vector<Form>& forms, Insn one) {
    if (one.code == 0xbf && one.off == 1)  // the off of a cast, which the table cannot say
        return fits(Register::writable, one.dst) && fits(Register::any, one.src) && (one.imm == 1 || one.imm == 65536);
    return std::ranges::any_of(forms, [one](const Form& form) {
        if (one.code == 0xbf && form.values == std::vector<std::int32_t>{1, 65536}) return false;
        return fits(form.dst, one.dst) && fits(form.src, one.src) && fits(form.off, one.off, form.values) &&
               fits(form.imm, one.imm, form.values);
    });
}

TEST(Validate, every_code_takes_exactly_its_fields) {
    const auto table = valid_forms();
    constexpr std::array<unsigned, 7> k_registers_tried{0, 1, 5, 9, 10, 11, 15};
    constexpr std::array<std::int16_t, 13> k_offsets{0, 1, 2, -1, -2, -3, 8, 16, 32, 64, 24, 32767, -32768};
    constexpr std::array<std::int32_t, 29> k_immediates{
        0,    1,    2,    -1,   -2,   -3,   8,    16,    32,    64,    128,   181,   0x40,       0x41,           0x50,
        0x51, 0xa0, 0xa1, 0xe0, 0xe1, 0xf0, 0xf1, 0x100, 0x101, 0x110, 0x111, 65536, 0x7fffffff, -0x7fffffff - 1};
    ObjectFile file = ObjectBuilder{}.function("main", {mov(r0, 0), mov(r0, 0), mov(r0, 0), exit()}).file();
    std::uint64_t valid = 0;
    for (unsigned code = 0; code < 256; ++code) {
        if (code == k_code_ld_imm64) continue;
        unsigned wrong = 0;
        for (const unsigned dst : k_registers_tried) {
            for (const unsigned src : k_registers_tried) {
                if ((code == k_code_call) && src != 0 && src <= 2) continue;  // local calls and kfuncs
                for (const std::int16_t off : k_offsets) {
                    for (const std::int32_t imm : k_immediates) {
                        const Insn one = insn(static_cast<std::uint8_t>(code), dst, src, off, imm);
                        file.instructions[1] = one;
                        const auto result = check(file);
                        const bool expected = is_valid(table[code], one);
                        valid += expected ? 1 : 0;
                        if (result.has_value() == expected || ++wrong > 3) continue;
                        ADD_FAILURE() << fmt::format("code {:#04x} dst {} src {} off {} imm {:#x}: {}", code, dst, src,
                                                     off, static_cast<unsigned>(imm),
                                                     result ? "accepted" : result.error().message());
                    }
                }
            }
        }
        EXPECT_LE(wrong, 3U) << "code " << code << " has more";
    }
    EXPECT_GT(valid, 10'000U) << "the table was used";
}

TEST(Validate, every_valid_instruction_can_be_run) {
    // Whatever it does, it ends: with a result or an error, and every one is known to the interpreter.
    const auto table = valid_forms();
    for (unsigned code = 0; code < 256; ++code) {
        for (const Form& form : table[code]) {
            for (const std::int32_t value : form.values.empty() ? std::vector<std::int32_t>{0} : form.values) {
                const bool cast = code == 0xbf && (value == 1 || value == 65536);
                const auto off = static_cast<std::int16_t>(cast ? 1 : form.off == Field::one_of ? value : 0);
                const std::int32_t imm = form.imm == Field::one_of ? value : 0;
                const Insn one = insn(static_cast<std::uint8_t>(code), form.dst == Register::zero ? 0 : 3,
                                      form.src == Register::zero ? 0 : 4, off, imm);
                ObjectBuilder object;
                object.function("main", {mov(r0, 0), mov(r3, 0), mov(r4, 0), one, mov(r0, 0), exit()});
                const auto result = object.run({}, {.max_instructions = 1000});
                const int error = result ? 0 : result.error().code();
                EXPECT_TRUE(error == 0 || error == EACCES || error == EFAULT || (cast && error == EINVAL))
                    << code << ": " << (result ? "" : result.error().message());
            }
        }
    }
}

// --- one rule after the other, with its words
// -------------------------------------------------------------------------

TEST(Validate, messages_name_the_place_and_what_is_wrong) {
    EXPECT_TRUE(refused(check({mov(r0, 0), insn(0xff, 0, 0, 0, 0), exit()}), EINVAL,
                        "program 'main' instruction 1: unknown opcode ff"));
    EXPECT_TRUE(refused(check({insn(0xb7, 11, 0, 0, 0), exit()}), EINVAL, "R11 is invalid"));
    EXPECT_TRUE(refused(check({insn(0xbf, 0, 15, 0, 0), exit()}), EINVAL, "R15 is invalid"));
    EXPECT_TRUE(refused(check({insn(0x0f, 0, 0, 0, 7), exit()}), EINVAL, "opcode 0f uses reserved fields"));
    EXPECT_TRUE(refused(check({mov(r10, 0), exit()}), EINVAL, "frame pointer is read only"));
    EXPECT_TRUE(refused(check({insn(0xdb, 0, 0, 0, 0x33), exit()}), EINVAL, "invalid atomic opcode 0x33"));
    EXPECT_TRUE(refused(check({atomic(Size::b, 0, r10, -8, r0), exit()}), EINVAL, "of 4 or 8 bytes only"));
    EXPECT_TRUE(
        refused(check({insn(0xbf, 0, 0, 1, 2), exit()}), EINVAL, "addr_space_cast between unknown address spaces"));
    EXPECT_TRUE(refused(check({call_helper(4711), exit()}), EINVAL, "invalid func unknown#4711"));
    EXPECT_TRUE(refused(check({jump(5), exit()}), EINVAL, "jump out of range"));
    EXPECT_TRUE(refused(check({insn(k_code_call, 0, 3, 0, 0), exit()}), EINVAL, "call of unknown kind 3"));
}

TEST(Validate, legacy_packet_access_is_known_and_not_available) {
    for (const std::uint8_t code : std::initializer_list<std::uint8_t>{0x20, 0x28, 0x30, 0x40, 0x48, 0x50})
        EXPECT_TRUE(refused(check({insn(code, 0, 0, 0, 0), exit()}), ENOTSUP, "legacy packet access"));
    for (const std::uint8_t code :
         std::initializer_list<std::uint8_t>{0x00, 0x08, 0x10, 0x38, 0x58, 0x60, 0x80, 0xa0, 0xc0, 0xe0})
        EXPECT_TRUE(refused(check({insn(code, 0, 0, 0, 0), exit()}), EINVAL, "unknown opcode"));
}

TEST(Validate, a_function_does_not_run_past_its_end) {
    for (const Insn last :
         {mov(r0, 0), may_goto(-1), jump_if(JmpOp::jeq, r0, 0, -1), call_helper(1), call_register(r0)})
        EXPECT_TRUE(refused(check({mov(r0, 0), last}), EINVAL, "last insn is not an exit or jmp"));
    for (const Insn last : {exit(), jump(-1), insn(k_code_ja32, 0, 0, 0, -1)}) EXPECT_TRUE(check({mov(r0, 0), last}));
    EXPECT_TRUE(refused(check(imm64(r0, 0)), EINVAL, "last insn is not an exit or jmp"));
}

TEST(Validate, both_halves_of_a_wide_load_are_there_and_clean) {
    EXPECT_TRUE(check(join({imm64(r0, ~0ULL), exit()})));
    EXPECT_TRUE(
        refused(check({exit(), insn(k_code_ld_imm64, 0, 0, 0, 0)}), EINVAL, "second half of ld_imm64 is missing"));
    for (const Insn second :
         {insn(1, 0, 0, 0, 0), insn(0, 1, 0, 0, 0), insn(0, 0, 1, 0, 0), insn(0, 0, 0, 1, 0), exit()})
        EXPECT_TRUE(
            refused(check({insn(k_code_ld_imm64, 0, 0, 0, 0), second, exit()}), EINVAL, "invalid bpf_ld_imm64 insn"));
    EXPECT_TRUE(refused(check({insn(k_code_ld_imm64, 0, 0, 1, 0), insn(0, 0, 0, 0, 0), exit()}), EINVAL,
                        "invalid bpf_ld_imm64 insn"));
    EXPECT_TRUE(refused(check({insn(k_code_ld_imm64, 10, 0, 0, 0), insn(0, 0, 0, 0, 0), exit()}), EINVAL,
                        "frame pointer is read only"));
    for (const unsigned kind : {1U, 2U, 3U, 4U, 5U, 6U, 10U})
        EXPECT_TRUE(refused(check({insn(k_code_ld_imm64, 0, kind, 0, 0), insn(0, 0, 0, 0, 0), exit()}), EINVAL,
                            "refers to nothing"));
}

TEST(Validate, no_jump_goes_into_a_wide_load) {
    const Code wide = imm64(r0, 0);
    EXPECT_TRUE(refused(check(join({jump(1), wide, exit()})), EINVAL, "jump into the middle of ldimm64"));
    EXPECT_TRUE(check(join({jump(0), wide, exit()})));
    EXPECT_TRUE(refused(check(join({wide, jump_if(JmpOp::jne, r0, 0, -2), exit()})), EINVAL,
                        "jump into the middle of ldimm64"));
    EXPECT_TRUE(refused(check(join({wide, may_goto(-2), exit()})), EINVAL, "jump into the middle of ldimm64"));
    EXPECT_TRUE(refused(check(join({wide, insn(k_code_ja32, 0, 0, 0, -2), exit()})), EINVAL,
                        "jump into the middle of ldimm64"));
}

TEST(Validate, no_jump_leaves_its_function) {
    for (const std::int16_t distance : std::initializer_list<std::int16_t>{-2, 1, 2, 3}) {
        ObjectBuilder object;
        object.function("main", {jump(distance), exit()}).function("other", {mov(r0, 0), exit()});
        EXPECT_TRUE(refused(check(object.file()), EINVAL, "leaves function 'main'")) << distance;
    }
    EXPECT_TRUE(refused(check({insn(k_code_ja32, 0, 0, 0, 0x7fffffff), exit()}), EINVAL, "leaves function"));
    EXPECT_TRUE(refused(check({insn(k_code_ja32, 0, 0, 0, -0x7fffffff - 1), exit()}), EINVAL, "leaves function"));
}

TEST(Validate, local_calls_go_to_the_beginning_of_a_function) {
    const auto call = [](std::int32_t distance) {
        ObjectBuilder object;
        object.function("main", {mov(r0, 0), call_local(distance), exit()}).function("other", {mov(r0, 0), exit()});
        return check(object.file());
    };
    EXPECT_TRUE(call(1)) << "of the other";
    EXPECT_TRUE(call(-2)) << "of this one";
    for (const std::int32_t distance : {0, -1, 2, 3, 1000, -3, 0x7fffffff, -0x7fffffff - 1})
        EXPECT_TRUE(refused(call(distance), EINVAL, "not the beginning of a function")) << distance;
}

TEST(Validate, kfunc_calls_are_named_by_the_object) {
    EXPECT_TRUE(
        refused(check({insn(k_code_call, 0, 2, 0, 7), exit()}), EINVAL, "a kfunc that the object does not name"));
    ObjectBuilder object;
    object.function("main", {insn(k_code_call, 0, 2, 0, -1), exit()}).kfunc_at(0, "bpf_arena_alloc_pages");
    EXPECT_TRUE(check(object.file()));
}

TEST(Validate, only_functions_that_can_be_reached_are_checked) {
    const Code bad{insn(0xff, 0, 0, 0, 0), exit()};
    EXPECT_TRUE(check(ObjectBuilder{}.function("main", {mov(r0, 0), exit()}).function("unused", bad).file()));
    ObjectBuilder by_call;
    by_call.function("main", {call_local(1), exit()}).function("middle", {call_local(1), exit()}).function("used", bad);
    EXPECT_TRUE(refused(check(by_call.file()), EINVAL, "function 'used' instruction 0"));
    ObjectBuilder by_address;
    by_address.function("main", join({insn(k_code_ld_imm64, 2, 4, 0, 0), insn(0, 0, 0, 0, 0), exit()}))
        .function("callback", bad);
    by_address.refer(0, Reference::Kind::function, 1);
    EXPECT_TRUE(refused(check(by_address.file()), EINVAL, "function 'callback' instruction 0"));
    ObjectBuilder not_loaded;
    not_loaded.function("main", {mov(r0, 0), exit()}).program("optional", bad).file().functions[1].autoload = false;
    EXPECT_TRUE(check(not_loaded.file()));
}

TEST(Validate, many_functions_and_references_take_linear_time) {
    // Squared, this would be 10^10 steps, and minutes.
    constexpr std::uint32_t k_many = 100'000;
    ObjectFile file = ObjectBuilder{}.file();
    for (std::uint32_t i = 0; i < k_many; ++i) {
        const std::uint32_t begin = 4 * i;
        file.functions.push_back(
            {.name = "f", .section = "syscall", .begin = begin, .end = begin + 4, .is_program = i == 0});
        file.references.push_back(
            {.insn = begin, .kind = Reference::Kind::function, .target = std::min(i + 1, k_many - 1)});
        const Code code = {insn(k_code_ld_imm64, 2, 4, 0, 0), insn(0, 0, 0, 0, 0), mov(r0, 0), exit()};
        file.instructions.insert(file.instructions.end(), code.begin(), code.end());
    }
    EXPECT_TRUE(check(file));
    EXPECT_EQ(std::ranges::count(reachable_functions(file), true), k_many);
}

}  // namespace

}  // namespace harena::bpf
