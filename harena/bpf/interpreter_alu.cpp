// SPDX-License-Identifier: Apache-2.0
#include <cerrno>

#include "harena/bpf/alu.hpp"
#include "harena/bpf/interpreter.hpp"

namespace harena::bpf {

namespace {

bool is_64_bit(Insn insn) noexcept { return class_of(insn) == Class::alu64; }

}  // namespace

void Interpreter::alu(Insn insn) {
    Value& destination = registers_[insn.dst];
    switch (alu_op(insn)) {
        case AluOp::mov:
            destination = move(insn, operand(insn));
            break;
        case AluOp::end:
            destination = byte_order(insn, read(insn.dst));
            break;
        case AluOp::neg: {
            const Value& value = read(insn.dst);
            if (!is_public(value.kind()))
                stop(EACCES, "R{} pointer arithmetic prohibited: it is negated (kind {})", unsigned{insn.dst},
                     name_of(value.kind()));
            const std::uint64_t negated = 0 - value.bits;
            destination = Value::scalar(is_64_bit(insn) ? negated : static_cast<std::uint32_t>(negated));
            break;
        }
        default:
            destination = binary(insn, read(insn.dst), operand(insn));
            break;
    }
}

Value Interpreter::move(Insn insn, const Value& source) const {
    if (is_64_bit(insn) && insn.off == k_off_addr_space_cast) return cast(insn, source);
    if (is_64_bit(insn) && insn.off == 0) return source;
    if (!is_public(source.kind()))
        stop(EACCES, "R{} partial copy of pointer (kind {})", unsigned{insn.src}, name_of(source.kind()));
    const std::uint64_t extended = alu::sign_extend(source.bits, static_cast<unsigned>(insn.off));
    return Value::scalar(is_64_bit(insn) ? extended : static_cast<std::uint32_t>(extended));
}

Value Interpreter::cast(Insn insn, const Value& source) const {
    if (image_->arena == nullptr)
        stop(EINVAL, "addr_space_cast insn can only be used in a program that has an associated arena");
    if (!is_public(source.kind()))
        stop(EACCES, "R{} of kind {} cannot be cast to or from the arena", unsigned{insn.src}, name_of(source.kind()));
    const auto low = static_cast<std::uint32_t>(source.bits);
    if (insn.imm == k_cast_to_program) return Value::arena(low);
    if (low == 0 || image_->arena->no_user_conv()) return Value::scalar(low);
    return Value::scalar(image_->arena->user_vm_start().value() >> 32 << 32 | low);
}

Value Interpreter::byte_order(Insn insn, const Value& value) const {
    if (!is_public(value.kind()))
        stop(EACCES, "R{} pointer arithmetic prohibited: its bytes are swapped (kind {})", unsigned{insn.dst},
             name_of(value.kind()));
    // alu: to little (imm operand) or big endian; alu64: swapped whatever this machine is. BPF here is little-endian.
    const bool swap = is_64_bit(insn) || uses_source_register(insn);
    return Value::scalar(alu::byte_order(value.bits, insn.imm, swap));
}

Value Interpreter::binary(Insn insn, const Value& a, const Value& b) const {
    if (!is_public(a.kind()) || !is_public(b.kind())) return pointer_arithmetic(insn, a, b);
    const AluOp op = alu_op(insn);
    const bool is_signed = insn.off == 1;
    const auto low = [](const Value& v) { return static_cast<std::uint32_t>(v.bits); };
    if (a.kind() == Kind::arena || b.kind() == Kind::arena)
        return Value::arena(alu::binary(op, is_signed, low(a), low(b)));
    if (is_64_bit(insn)) return Value::scalar(alu::binary<std::uint64_t>(op, is_signed, a.bits, b.bits));
    return Value::scalar(alu::binary(op, is_signed, low(a), low(b)));
}

// At least one of the two is an address of the host: only sums with numbers, and differences within a region.
Value Interpreter::pointer_arithmetic(Insn insn, const Value& a, const Value& b) const {
    const AluOp op = alu_op(insn);
    if (is_64_bit(insn)) {
        const auto moved = [](Value pointer, std::uint64_t by) {
            pointer.bits += by;
            return pointer;
        };
        if (op == AluOp::add && is_region(a.kind()) && b.kind() == Kind::scalar) return moved(a, b.bits);
        if (op == AluOp::add && a.kind() == Kind::scalar && is_region(b.kind())) return moved(b, a.bits);
        if (op == AluOp::sub && is_region(a.kind()) && b.kind() == Kind::scalar) return moved(a, 0 - b.bits);
        if (op == AluOp::sub && is_region(a.kind()) && a.tag == b.tag) return Value::scalar(a.bits - b.bits);
    }
    stop(EACCES,
         "R{} pointer arithmetic prohibited: kind {} combined with kind {} (only a 64-bit sum with a scalar and a "
         "difference "
         "within one region are)",
         unsigned{insn.dst}, name_of(a.kind()), name_of(b.kind()));
}

}  // namespace harena::bpf
