// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <limits>
#include <type_traits>

#include "harena/bpf/insn.hpp"

/// The arithmetic of RFC 9669, section 4, as pure functions.
namespace harena::bpf::alu {

/// `a op b` in `Unsigned`'s width. Division by zero gives 0 and modulo by zero gives `a`; signed overflow wraps; shift
/// counts are masked. `is_signed` is for div and mod (off == 1). neg, mov and end are not binary: `a` unchanged.
template <typename Unsigned>
[[nodiscard]] constexpr Unsigned binary(AluOp op, bool is_signed, Unsigned a, Unsigned b) noexcept {
    using Signed = std::make_signed_t<Unsigned>;
    constexpr Unsigned k_shift_mask = std::numeric_limits<Unsigned>::digits - 1;
    const auto sa = static_cast<Signed>(a);
    const auto sb = static_cast<Signed>(b);
    switch (op) {
        case AluOp::add:
            return a + b;
        case AluOp::sub:
            return a - b;
        case AluOp::mul:
            return a * b;
        case AluOp::div:
            if (b == 0) return 0;
            if (!is_signed) return a / b;
            return sb == -1 ? Unsigned{0} - a : static_cast<Unsigned>(sa / sb);
        case AluOp::mod:
            if (b == 0) return a;
            if (!is_signed) return a % b;
            return sb == -1 ? 0 : static_cast<Unsigned>(sa % sb);
        case AluOp::or_:
            return a | b;
        case AluOp::and_:
            return a & b;
        case AluOp::xor_:
            return a ^ b;
        case AluOp::lsh:
            return a << (b & k_shift_mask);
        case AluOp::rsh:
            return a >> (b & k_shift_mask);
        case AluOp::arsh:
            return static_cast<Unsigned>(sa >> (b & k_shift_mask));
        case AluOp::neg:
        case AluOp::mov:
        case AluOp::end:
            break;
    }
    return a;
}

/// The low `bits` (8, 16 or 32) of `value`, sign-extended to 64.
[[nodiscard]] constexpr std::uint64_t sign_extend(std::uint64_t value, unsigned bits) noexcept {
    switch (bits) {
        case 8:
            return static_cast<std::uint64_t>(static_cast<std::int64_t>(static_cast<std::int8_t>(value)));
        case 16:
            return static_cast<std::uint64_t>(static_cast<std::int64_t>(static_cast<std::int16_t>(value)));
        case 32:
            return static_cast<std::uint64_t>(static_cast<std::int64_t>(static_cast<std::int32_t>(value)));
        default:
            return value;
    }
}

/// The low `bits` (16, 32 or 64) of `value`, zero-extended, with its bytes in the opposite order if `swap`.
[[nodiscard]] constexpr std::uint64_t byte_order(std::uint64_t value, int bits, bool swap) noexcept {
    switch (bits) {
        case 16:
            return swap ? __builtin_bswap16(static_cast<std::uint16_t>(value)) : static_cast<std::uint16_t>(value);
        case 32:
            return swap ? __builtin_bswap32(static_cast<std::uint32_t>(value)) : static_cast<std::uint32_t>(value);
        default:
            return swap ? __builtin_bswap64(value) : value;
    }
}

/// `a op b` of a conditional jump in `Unsigned`'s width. Not for ja, call, exit and jcond: false.
template <typename Unsigned>
[[nodiscard]] constexpr bool compare(JmpOp op, Unsigned a, Unsigned b) noexcept {
    using Signed = std::make_signed_t<Unsigned>;
    const auto sa = static_cast<Signed>(a);
    const auto sb = static_cast<Signed>(b);
    switch (op) {
        case JmpOp::jeq:
            return a == b;
        case JmpOp::jne:
            return a != b;
        case JmpOp::jgt:
            return a > b;
        case JmpOp::jge:
            return a >= b;
        case JmpOp::jlt:
            return a < b;
        case JmpOp::jle:
            return a <= b;
        case JmpOp::jset:
            return (a & b) != 0;
        case JmpOp::jsgt:
            return sa > sb;
        case JmpOp::jsge:
            return sa >= sb;
        case JmpOp::jslt:
            return sa < sb;
        case JmpOp::jsle:
            return sa <= sb;
        case JmpOp::ja:
        case JmpOp::call:
        case JmpOp::exit:
        case JmpOp::jcond:
            break;
    }
    return false;
}

}  // namespace harena::bpf::alu
