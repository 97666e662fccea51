// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>

/// The BPF instruction set: RFC 9669 and what Linux added since (sources named at each).
namespace harena::bpf {

/// One 8-byte instruction as it stands in an object. `ld_imm64` takes two.
struct Insn {
    std::uint8_t code;
    std::uint8_t dst : 4;
    std::uint8_t src : 4;
    std::int16_t off;
    std::int32_t imm;

    friend bool operator==(const Insn&, const Insn&) noexcept = default;
};
static_assert(sizeof(Insn) == 8);

inline constexpr unsigned k_registers = 11;
inline constexpr unsigned k_frame_pointer = 10;
inline constexpr unsigned k_frame_bytes = 512;
inline constexpr unsigned k_max_frames = 8;
inline constexpr unsigned k_max_arguments = 5;

/// Low three bits of `code`.
enum class Class : std::uint8_t { ld = 0, ldx = 1, st = 2, stx = 3, alu = 4, jmp = 5, jmp32 = 6, alu64 = 7 };

/// Bits 4 to 7 of `code` in classes alu and alu64.
enum class AluOp : std::uint8_t {
    add = 0x00,
    sub = 0x10,
    mul = 0x20,
    div = 0x30,
    or_ = 0x40,
    and_ = 0x50,
    lsh = 0x60,
    rsh = 0x70,
    neg = 0x80,
    mod = 0x90,
    xor_ = 0xa0,
    mov = 0xb0,
    arsh = 0xc0,
    end = 0xd0,
};

/// Bits 4 to 7 of `code` in classes jmp and jmp32.
enum class JmpOp : std::uint8_t {
    ja = 0x00,
    jeq = 0x10,
    jgt = 0x20,
    jge = 0x30,
    jset = 0x40,
    jne = 0x50,
    jsgt = 0x60,
    jsge = 0x70,
    call = 0x80,
    exit = 0x90,
    jlt = 0xa0,
    jle = 0xb0,
    jslt = 0xc0,
    jsle = 0xd0,
    jcond = 0xe0,  // Linux 6.9: may_goto
};

/// Bit 3 of `code` in alu, alu64, jmp and jmp32: the second operand is `imm` (0) or register `src` (8).
inline constexpr std::uint8_t k_source_register = 0x08;

/// Bits 3 and 4 of `code` in ld, ldx, st and stx.
enum class Size : std::uint8_t { w = 0x00, h = 0x08, b = 0x10, dw = 0x18 };

/// Bits 5 to 7 of `code` in ld, ldx, st and stx.
enum class Mode : std::uint8_t { imm = 0x00, abs = 0x20, ind = 0x40, mem = 0x60, memsx = 0x80, atomic = 0xc0 };

[[nodiscard]] constexpr Class class_of(Insn insn) noexcept { return static_cast<Class>(insn.code & 0x07); }
[[nodiscard]] constexpr AluOp alu_op(Insn insn) noexcept { return static_cast<AluOp>(insn.code & 0xf0); }
[[nodiscard]] constexpr JmpOp jmp_op(Insn insn) noexcept { return static_cast<JmpOp>(insn.code & 0xf0); }
[[nodiscard]] constexpr bool uses_source_register(Insn insn) noexcept { return (insn.code & k_source_register) != 0; }
[[nodiscard]] constexpr Size size_of(Insn insn) noexcept { return static_cast<Size>(insn.code & 0x18); }
[[nodiscard]] constexpr Mode mode_of(Insn insn) noexcept { return static_cast<Mode>(insn.code & 0xe0); }

/// 1, 2, 4 or 8.
[[nodiscard]] constexpr unsigned bytes_of(Size size) noexcept {
    switch (size) {
        case Size::b:
            return 1;
        case Size::h:
            return 2;
        case Size::w:
            return 4;
        case Size::dw:
            return 8;
    }
    return 0;
}

[[nodiscard]] constexpr std::uint8_t make_code(Class cls, AluOp op, bool source_register) noexcept {
    return static_cast<std::uint8_t>(static_cast<unsigned>(cls) | static_cast<unsigned>(op) |
                                     (source_register ? k_source_register : 0U));
}
[[nodiscard]] constexpr std::uint8_t make_code(Class cls, JmpOp op, bool source_register) noexcept {
    return static_cast<std::uint8_t>(static_cast<unsigned>(cls) | static_cast<unsigned>(op) |
                                     (source_register ? k_source_register : 0U));
}
[[nodiscard]] constexpr std::uint8_t make_code(Class cls, Mode mode, Size size) noexcept {
    return static_cast<std::uint8_t>(static_cast<unsigned>(cls) | static_cast<unsigned>(mode) |
                                     static_cast<unsigned>(size));
}

/// The first half of a 16-byte instruction.
inline constexpr std::uint8_t k_code_ld_imm64 = 0x18;
inline constexpr std::uint8_t k_code_call = 0x85;
inline constexpr std::uint8_t k_code_call_register = 0x8d;
inline constexpr std::uint8_t k_code_exit = 0x95;
inline constexpr std::uint8_t k_code_ja = 0x05;
inline constexpr std::uint8_t k_code_ja32 = 0x06;      // `gotol`: the distance is in imm
inline constexpr std::uint8_t k_code_may_goto = 0xe5;  // with src 0

/// `off` of a mov: 8, 16, 32 sign-extend; 1 with alu64 is addr_space_cast (Linux 6.9).
inline constexpr std::int16_t k_off_addr_space_cast = 1;
/// `imm` of addr_space_cast: from space 1 to 0 gives the program's arena pointer, from 0 to 1 the user pointer.
inline constexpr std::int32_t k_cast_to_program = 1;
inline constexpr std::int32_t k_cast_to_user = 1 << 16;

/// `imm` of an atomic: an AluOp of add, or, and, xor, with or without fetch, or one of these.
inline constexpr std::int32_t k_atomic_fetch = 0x01;
inline constexpr std::int32_t k_atomic_xchg = 0xe1;
inline constexpr std::int32_t k_atomic_cmpxchg = 0xf1;
inline constexpr std::int32_t k_atomic_load_acquire = 0x100;   // Linux 6.15
inline constexpr std::int32_t k_atomic_store_release = 0x110;  // Linux 6.15

/// `src` of a call instruction.
enum class CallKind : std::uint8_t { helper = 0, local = 1, kfunc = 2 };

/// The distance of a jump in instructions, from the instruction after it.
[[nodiscard]] constexpr std::int32_t jump_distance(Insn insn) noexcept {
    return insn.code == k_code_ja32 ? insn.imm : insn.off;
}

}  // namespace harena::bpf
