// SPDX-License-Identifier: Apache-2.0
#include "harena/bpf/disassemble.hpp"

#include <cstdint>
#include <optional>
#include <string_view>
#include <utility>

#include <fmt/format.h>

namespace harena::bpf {

namespace {

/// Reads an instruction's fields and remembers which: what the text does not show must be 0.
class Fields {
public:
    explicit Fields(Insn insn) noexcept : insn_{insn} {}

    [[nodiscard]] std::string dst(bool wide) {
        dst_used_ = true;
        return name(insn_.dst, wide);
    }
    [[nodiscard]] std::string src(bool wide) {
        src_used_ = true;
        return name(insn_.src, wide);
    }
    /// `src` where it is no register but says which kind of instruction it is.
    [[nodiscard]] unsigned src_number() noexcept {
        src_used_ = true;
        return insn_.src;
    }
    [[nodiscard]] int off() noexcept {
        off_used_ = true;
        return insn_.off;
    }
    [[nodiscard]] std::int32_t imm() noexcept {
        imm_used_ = true;
        return insn_.imm;
    }
    /// "(r2 + 8)": a register and `off`.
    [[nodiscard]] std::string place(const std::string& base) {
        const int offset = off();
        return fmt::format("({} {} {})", base, offset < 0 ? '-' : '+', offset < 0 ? -offset : offset);
    }

    [[nodiscard]] Insn raw() const noexcept { return insn_; }
    [[nodiscard]] std::optional<unsigned> bad_register() const noexcept { return bad_register_; }
    [[nodiscard]] bool unused_are_zero() const noexcept {
        return (dst_used_ || insn_.dst == 0) && (src_used_ || insn_.src == 0) && (off_used_ || insn_.off == 0) &&
               (imm_used_ || insn_.imm == 0);
    }

private:
    [[nodiscard]] std::string name(unsigned number, bool wide) {
        if (number >= k_registers && !bad_register_) bad_register_ = number;
        return fmt::format("{}{}", wide ? 'r' : 'w', number);
    }

    Insn insn_;
    bool dst_used_ = false;
    bool src_used_ = false;
    bool off_used_ = false;
    bool imm_used_ = false;
    std::optional<unsigned> bad_register_;
};

/// The text, or nothing if there is no such opcode.
using Text = std::optional<std::string>;

std::string unsigned_type(Size size) { return fmt::format("u{}", 8 * bytes_of(size)); }

Text byte_swap(Fields& f, bool alu64) {
    const bool to_big = uses_source_register(f.raw());
    if (alu64 && to_big) return std::nullopt;
    const std::string_view name = alu64 ? "bswap" : to_big ? "be" : "le";
    const std::int32_t width = f.imm();
    if (width != 16 && width != 32 && width != 64) return fmt::format("(invalid width {} of {})", width, name);
    const std::string dst = f.dst(true);
    return fmt::format("{} = {}{} {}", dst, name, width, dst);
}

Text move(Fields& f, bool wide) {
    const int off = f.off();
    const bool from_register = uses_source_register(f.raw());
    if (off == 0) return fmt::format("{} = {}", f.dst(wide), from_register ? f.src(wide) : std::to_string(f.imm()));
    if (from_register && wide && off == k_off_addr_space_cast) {
        const auto spaces = static_cast<std::uint32_t>(f.imm());
        return fmt::format("{} = addr_space_cast({}, {}, {})", f.dst(true), f.src(true), spaces >> 16, spaces & 0xffff);
    }
    if (from_register && (off == 8 || off == 16 || (wide && off == 32)))
        return fmt::format("{} = (s{}){}", f.dst(wide), off, f.src(wide));
    return fmt::format("(invalid offset {} of mov)", off);
}

std::string_view operator_of(AluOp op) noexcept {
    switch (op) {
        case AluOp::add:
            return "+=";
        case AluOp::sub:
            return "-=";
        case AluOp::mul:
            return "*=";
        case AluOp::div:
            return "/=";
        case AluOp::or_:
            return "|=";
        case AluOp::and_:
            return "&=";
        case AluOp::lsh:
            return "<<=";
        case AluOp::rsh:
            return ">>=";
        case AluOp::mod:
            return "%=";
        case AluOp::xor_:
            return "^=";
        case AluOp::arsh:
            return "s>>=";
        case AluOp::neg:
        case AluOp::mov:
        case AluOp::end:
            break;
    }
    return {};
}

Text arithmetic(Fields& f, bool wide) {
    const AluOp op = alu_op(f.raw());
    const bool from_register = uses_source_register(f.raw());
    if (op == AluOp::end) return byte_swap(f, wide);
    if (op == AluOp::mov) return move(f, wide);
    if (op == AluOp::neg) {
        if (from_register) return std::nullopt;
        const std::string dst = f.dst(wide);
        return fmt::format("{} = -{}", dst, dst);
    }
    const std::string_view symbol = operator_of(op);
    if (symbol.empty()) return std::nullopt;
    const bool divides = op == AluOp::div || op == AluOp::mod;
    const int off = divides ? f.off() : 0;
    if (off != 0 && off != 1) return fmt::format("(invalid offset {} of a division)", off);
    return fmt::format("{} {}{} {}", f.dst(wide), off == 1 ? "s" : "", symbol,
                       from_register ? f.src(wide) : std::to_string(f.imm()));
}

/// kernel: BPF_PSEUDO_MAP_FD and its kin.
Text load_imm64(Fields& f, std::span<const Insn> code) {
    if (code.size() < 2) return "(ld_imm64 without its second half)";
    const Insn second = code[1];
    if (second.code != 0 || second.dst != 0 || second.src != 0 || second.off != 0)
        return fmt::format("(ld_imm64 with an invalid second half, opcode 0x{:02x})", second.code);
    const std::int32_t low = f.imm();
    const std::string dst = f.dst(true);
    switch (f.src_number()) {
        case 0:
            return fmt::format("{} = 0x{:x}", dst,
                               std::uint64_t{static_cast<std::uint32_t>(second.imm)} << 32 |
                                   static_cast<std::uint32_t>(low));
        case 1:
            return fmt::format("{} = map fd {}", dst, low);
        case 2:
            return fmt::format("{} = value of map fd {} + {}", dst, low, second.imm);
        case 3:
            return fmt::format("{} = variable of BTF id {}", dst, low);
        case 4:
            return fmt::format("{} = function {:+}", dst, low);
        case 5:
            return fmt::format("{} = map index {}", dst, low);
        case 6:
            return fmt::format("{} = value of map index {} + {}", dst, low, second.imm);
        default:
            return fmt::format("(invalid kind {} of ld_imm64)", f.src_number());
    }
}

Text load(Fields& f, std::span<const Insn> code) {
    const Size size = size_of(f.raw());
    switch (mode_of(f.raw())) {
        case Mode::imm:
            return size == Size::dw ? load_imm64(f, code) : std::nullopt;
        case Mode::abs:
            if (size == Size::dw) return std::nullopt;
            return fmt::format("r0 = *({} *)skb[{}]", unsigned_type(size), f.imm());
        case Mode::ind:
            if (size == Size::dw) return std::nullopt;
            return fmt::format("r0 = *({} *)skb[{} + {}]", unsigned_type(size), f.src(true), f.imm());
        default:
            return std::nullopt;
    }
}

Text load_memory(Fields& f) {
    const Size size = size_of(f.raw());
    const Mode mode = mode_of(f.raw());
    if (mode != Mode::mem && (mode != Mode::memsx || size == Size::dw)) return std::nullopt;
    return fmt::format("{} = *({}{} *){}", f.dst(true), mode == Mode::mem ? 'u' : 's', 8 * bytes_of(size),
                       f.place(f.src(true)));
}

Text store_immediate(Fields& f) {
    if (mode_of(f.raw()) != Mode::mem) return std::nullopt;
    const std::string place = f.place(f.dst(true));
    return fmt::format("*({} *){} = {}", unsigned_type(size_of(f.raw())), place, f.imm());
}

/// The text of an atomic operation on `memory`, such as "(u64 *)(r1 + 0)"; nothing if `imm` is none.
Text atomic(Fields& f) {
    const Size size = size_of(f.raw());
    const bool wide = size == Size::dw;
    const std::int32_t op = f.imm();
    const std::string_view width = wide ? "64" : "";
    const bool ordered_access = op == k_atomic_load_acquire || op == k_atomic_store_release;
    if (!ordered_access && bytes_of(size) < 4)
        return fmt::format("(invalid size of an atomic operation: {} bytes)", bytes_of(size));

    // The address is in dst, and the value in src; load_acquire is a load, with address and value the other way round.
    const bool loads = op == k_atomic_load_acquire;
    const std::string memory = fmt::format("({} *){}", unsigned_type(size), f.place(loads ? f.src(true) : f.dst(true)));
    const std::string value = loads ? f.dst(wide) : f.src(wide);
    switch (op) {
        case k_atomic_load_acquire:
            return fmt::format("{} = load_acquire({})", value, memory);
        case k_atomic_store_release:
            return fmt::format("store_release({}, {})", memory, value);
        case k_atomic_xchg:
            return fmt::format("{} = atomic{}_xchg({}, {})", value, width, memory, value);
        case k_atomic_cmpxchg: {
            const std::string_view expected = wide ? "r0" : "w0";
            return fmt::format("{} = atomic{}_cmpxchg({}, {}, {})", expected, width, memory, expected, value);
        }
        default:
            break;
    }
    std::string_view name;
    switch (op & ~k_atomic_fetch) {
        case static_cast<int>(AluOp::add):
            name = "add";
            break;
        case static_cast<int>(AluOp::or_):
            name = "or";
            break;
        case static_cast<int>(AluOp::and_):
            name = "and";
            break;
        case static_cast<int>(AluOp::xor_):
            name = "xor";
            break;
        default:
            return fmt::format("(invalid atomic operation 0x{:x})", static_cast<std::uint32_t>(op));
    }
    if ((op & k_atomic_fetch) != 0)
        return fmt::format("{} = atomic{}_fetch_{}({}, {})", value, width, name, memory, value);
    return fmt::format("lock *{} {} {}", memory, operator_of(static_cast<AluOp>(op)), value);
}

Text store_register(Fields& f) {
    switch (mode_of(f.raw())) {
        case Mode::mem: {
            const std::string place = f.place(f.dst(true));
            return fmt::format("*({} *){} = {}", unsigned_type(size_of(f.raw())), place, f.src(true));
        }
        case Mode::atomic:
            return atomic(f);
        default:
            return std::nullopt;
    }
}

std::string_view operator_of(JmpOp op) noexcept {
    switch (op) {
        case JmpOp::jeq:
            return "==";
        case JmpOp::jgt:
            return ">";
        case JmpOp::jge:
            return ">=";
        case JmpOp::jset:
            return "&";
        case JmpOp::jne:
            return "!=";
        case JmpOp::jsgt:
            return "s>";
        case JmpOp::jsge:
            return "s>=";
        case JmpOp::jlt:
            return "<";
        case JmpOp::jle:
            return "<=";
        case JmpOp::jslt:
            return "s<";
        case JmpOp::jsle:
            return "s<=";
        case JmpOp::ja:
        case JmpOp::call:
        case JmpOp::exit:
        case JmpOp::jcond:
            break;
    }
    return {};
}

Text call(Fields& f) {
    switch (f.src_number()) {
        case std::to_underlying(CallKind::helper):
            return fmt::format("call {}", f.imm());
        case std::to_underlying(CallKind::local):
            return fmt::format("call pc{:+}", f.imm());
        case std::to_underlying(CallKind::kfunc): {
            const int module = f.off();
            return module == 0 ? fmt::format("call kfunc {}", f.imm())
                               : fmt::format("call kfunc {} of module {}", f.imm(), module);
        }
        default:
            return fmt::format("(invalid kind {} of call)", f.src_number());
    }
}

Text jump(Fields& f, bool wide) {
    const JmpOp op = jmp_op(f.raw());
    const bool from_register = uses_source_register(f.raw());
    if (const std::string_view symbol = operator_of(op); !symbol.empty())
        return fmt::format("if {} {} {} goto {:+}", f.dst(wide), symbol,
                           from_register ? f.src(wide) : std::to_string(f.imm()), f.off());
    switch (f.raw().code) {
        case k_code_ja:
            return fmt::format("goto {:+}", f.off());
        case k_code_ja32:
            return fmt::format("gotol {:+}", f.imm());
        case k_code_call:
            return call(f);
        case k_code_call_register:
            return fmt::format("callx {}", f.dst(true));
        case k_code_exit:
            return "exit";
        case k_code_may_goto:
            if (f.src_number() != 0) return fmt::format("(invalid condition {} of a jump)", f.src_number());
            return fmt::format("may_goto {:+}", f.off());
        default:
            return std::nullopt;
    }
}

Text by_class(Fields& f, std::span<const Insn> code) {
    switch (class_of(f.raw())) {
        case Class::ld:
            return load(f, code);
        case Class::ldx:
            return load_memory(f);
        case Class::st:
            return store_immediate(f);
        case Class::stx:
            return store_register(f);
        case Class::alu:
            return arithmetic(f, false);
        case Class::jmp:
            return jump(f, true);
        case Class::jmp32:
            return jump(f, false);
        case Class::alu64:
            return arithmetic(f, true);
    }
    return std::nullopt;
}

}  // namespace

std::string disassemble(std::span<const Insn> code) {
    if (code.empty()) return "(no instruction)";
    Fields fields{code[0]};
    Text text = by_class(fields, code);
    if (!text) return fmt::format("(invalid opcode 0x{:02x})", code[0].code);
    if (text->starts_with('(')) return *std::move(text);
    if (const auto number = fields.bad_register())
        return fmt::format("(invalid register {}, opcode 0x{:02x})", *number, code[0].code);
    if (!fields.unused_are_zero()) *text += " (invalid: unused fields are not 0)";
    return *std::move(text);
}

}  // namespace harena::bpf
