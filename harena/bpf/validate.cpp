// SPDX-License-Identifier: Apache-2.0
#include "harena/bpf/validate.hpp"

#include <algorithm>
#include <array>
#include <cerrno>

#include "harena/base/bitmap.hpp"

namespace harena::bpf {

namespace {

/// The check of one function. What is wrong comes back as a sentence; empty if nothing is.
class FunctionCheck {
public:
    FunctionCheck(const ObjectFile& file, const Function& function,
                  const std::function<bool(std::int32_t)>& knows_helper)
        : file_{file}, function_{function}, knows_helper_{knows_helper}, starts_(function.end - function.begin) {}

    Result<void> run() {
        // First where instructions begin, then what they are: a jump may go forward.
        for (std::uint32_t at = function_.begin; at < function_.end; at += width(at)) {
            if (width(at) > function_.end - at) return wrong(at, EINVAL, "the second half of ld_imm64 is missing");
            starts_.set(at - function_.begin);
        }
        std::uint32_t last = function_.begin;
        for (std::uint32_t at = function_.begin; at < function_.end; at += width(at)) {
            last = at;
            if (const std::string what = check(at, file_.instructions[at]); !what.empty()) {
                return wrong(at, is_legacy(file_.instructions[at]) ? ENOTSUP : EINVAL, what);
            }
        }
        const Insn end = file_.instructions[last];
        if (end.code != k_code_exit && end.code != k_code_ja && end.code != k_code_ja32)
            return wrong(last, EINVAL, "last insn is not an exit or jmp: control runs past the end of the function");
        return {};
    }

private:
    [[nodiscard]] std::uint32_t width(std::uint32_t at) const noexcept {
        return file_.instructions[at].code == k_code_ld_imm64 ? 2 : 1;
    }

    [[nodiscard]] Result<void> wrong(std::uint32_t at, int code, std::string_view what) const {
        return fail(code, "{}: {}", file_.describe_place(at), what);
    }

    [[nodiscard]] std::string check(std::uint32_t at, Insn insn) const {
        if (insn.dst >= k_registers || insn.src >= k_registers)
            return fmt::format("R{} is invalid: registers are R0 to R10", std::max<unsigned>(insn.dst, insn.src));
        switch (class_of(insn)) {
            case Class::ld:
                return check_ld(at, insn);
            case Class::ldx:
                return check_ldx(insn);
            case Class::st:
                return check_st(insn);
            case Class::stx:
                return check_stx(insn);
            case Class::alu:
            case Class::alu64:
                return check_alu(insn);
            case Class::jmp:
            case Class::jmp32:
                return check_jmp(at, insn);
        }
        return unknown(insn);
    }

    // Of classic BPF: LD_ABS and LD_IND.
    static bool is_legacy(Insn insn) noexcept {
        return class_of(insn) == Class::ld && (mode_of(insn) == Mode::abs || mode_of(insn) == Mode::ind) &&
               size_of(insn) != Size::dw;
    }
    static std::string unknown(Insn insn) { return fmt::format("unknown opcode {:02x}", insn.code); }
    static std::string reserved(Insn insn) { return fmt::format("opcode {:02x} uses reserved fields", insn.code); }
    static std::string frame_pointer_written() { return "frame pointer is read only: R10 is the destination"; }

    [[nodiscard]] std::string check_ld(std::uint32_t at, Insn insn) const {
        if (insn.code != k_code_ld_imm64) {
            return is_legacy(insn)
                       ? "legacy packet access (LD_ABS, LD_IND): not available, use the context's data and data_end"
                       : unknown(insn);
        }
        const Insn second = file_.instructions[at + 1];
        if (insn.dst == k_frame_pointer) return frame_pointer_written();
        if (second.code != 0 || second.dst != 0 || second.src != 0 || second.off != 0 || insn.off != 0)
            return "invalid bpf_ld_imm64 insn: reserved fields are used";
        if (insn.src != 0 && file_.reference_at(at) == nullptr)
            return fmt::format("ld_imm64 of kind {} (src_reg) refers to nothing in this object", unsigned{insn.src});
        return {};
    }

    static std::string check_ldx(Insn insn) {
        const bool plain = mode_of(insn) == Mode::mem || (mode_of(insn) == Mode::memsx && size_of(insn) != Size::dw);
        if (!plain) return unknown(insn);
        if (insn.imm != 0) return reserved(insn);
        return insn.dst == k_frame_pointer ? frame_pointer_written() : std::string{};
    }

    static std::string check_st(Insn insn) {
        if (mode_of(insn) != Mode::mem) return unknown(insn);
        return insn.src != 0 ? reserved(insn) : std::string{};
    }

    static std::string check_stx(Insn insn) {
        if (mode_of(insn) == Mode::mem) return insn.imm != 0 ? reserved(insn) : std::string{};
        if (mode_of(insn) != Mode::atomic) return unknown(insn);
        const bool word = size_of(insn) == Size::w || size_of(insn) == Size::dw;
        switch (insn.imm) {
            case k_atomic_load_acquire:
                return insn.dst == k_frame_pointer ? frame_pointer_written() : std::string{};
            case k_atomic_store_release:
                return {};
            case static_cast<int>(AluOp::add):
            case static_cast<int>(AluOp::or_):
            case static_cast<int>(AluOp::and_):
            case static_cast<int>(AluOp::xor_):
            case k_atomic_cmpxchg:
                return word ? std::string{} : fmt::format("atomic operation {:#x} is of 4 or 8 bytes only", insn.imm);
            case static_cast<int>(AluOp::add) | k_atomic_fetch:
            case static_cast<int>(AluOp::or_) | k_atomic_fetch:
            case static_cast<int>(AluOp::and_) | k_atomic_fetch:
            case static_cast<int>(AluOp::xor_) | k_atomic_fetch:
            case k_atomic_xchg:
                if (!word) return fmt::format("atomic operation {:#x} is of 4 or 8 bytes only", insn.imm);
                return insn.src == k_frame_pointer ? frame_pointer_written() : std::string{};
            default:
                return fmt::format("BPF_ATOMIC uses invalid atomic opcode {:#x}", insn.imm);
        }
    }

    static std::string check_alu(Insn insn) {
        const bool is_64_bit = class_of(insn) == Class::alu64;
        const bool from_register = uses_source_register(insn);
        const AluOp op = alu_op(insn);
        if (op > AluOp::end) return unknown(insn);
        if (insn.dst == k_frame_pointer) return frame_pointer_written();
        if (op == AluOp::neg)
            return from_register || insn.src != 0 || insn.off != 0 || insn.imm != 0 ? reserved(insn) : std::string{};
        if (op == AluOp::end) {
            const bool width = insn.imm == 16 || insn.imm == 32 || insn.imm == 64;
            return insn.src != 0 || insn.off != 0 || !width || (is_64_bit && from_register) ? reserved(insn)
                                                                                            : std::string{};
        }
        if (from_register ? op != AluOp::mov && insn.imm != 0 : insn.src != 0) return reserved(insn);
        if (op == AluOp::mov) return check_mov(insn, is_64_bit, from_register);
        const bool divides = op == AluOp::div || op == AluOp::mod;
        return insn.off == 0 || (divides && insn.off == 1) ? std::string{} : reserved(insn);
    }

    static std::string check_mov(Insn insn, bool is_64_bit, bool from_register) {
        if (!from_register) return insn.off != 0 ? reserved(insn) : std::string{};
        if (is_64_bit && insn.off == k_off_addr_space_cast) {
            const bool known = insn.imm == k_cast_to_program || insn.imm == k_cast_to_user;
            return known ? std::string{}
                         : fmt::format("addr_space_cast between unknown address spaces ({:#x})", insn.imm);
        }
        const bool extends = insn.off == 8 || insn.off == 16 || (is_64_bit && insn.off == 32);
        return insn.imm != 0 || (insn.off != 0 && !extends) ? reserved(insn) : std::string{};
    }

    [[nodiscard]] std::string check_jmp(std::uint32_t at, Insn insn) const {
        const bool is_jmp32 = class_of(insn) == Class::jmp32;
        switch (jmp_op(insn)) {
            case JmpOp::call:
                return is_jmp32 ? unknown(insn) : check_call(at, insn);
            case JmpOp::exit:
                if (insn.code != k_code_exit) return unknown(insn);
                return insn.dst != 0 || insn.src != 0 || insn.off != 0 || insn.imm != 0 ? reserved(insn)
                                                                                        : std::string{};
            case JmpOp::ja:
                if (uses_source_register(insn)) return unknown(insn);
                if (insn.dst != 0 || insn.src != 0 || (is_jmp32 ? insn.off != 0 : insn.imm != 0)) return reserved(insn);
                return check_target(at, jump_distance(insn));
            case JmpOp::jcond:
                if (insn.code != k_code_may_goto) return unknown(insn);
                if (insn.dst != 0 || insn.src != 0 || insn.imm != 0)
                    return fmt::format("invalid may_goto imm {}: reserved fields are used", insn.imm);
                return check_target(at, insn.off);
            default:
                break;
        }
        if (jmp_op(insn) > JmpOp::jcond) return unknown(insn);
        if (uses_source_register(insn) ? insn.imm != 0 : insn.src != 0) return reserved(insn);
        return check_target(at, insn.off);
    }

    [[nodiscard]] std::string check_target(std::uint32_t at, std::int32_t distance) const {
        const std::int64_t target = std::int64_t{at} + 1 + distance;
        if (target < function_.begin || target >= function_.end)
            return fmt::format("jump out of range: {:+} leaves function '{}'", distance, function_.name);
        if (!starts_.test(static_cast<std::size_t>(target - function_.begin)))
            return fmt::format("jump into the middle of ldimm64 insn ({:+})", distance);
        return {};
    }

    [[nodiscard]] std::string check_call(std::uint32_t at, Insn insn) const {
        if (insn.off != 0) return reserved(insn);
        if (insn.code == k_code_call_register) return insn.src != 0 || insn.imm != 0 ? reserved(insn) : std::string{};
        if (insn.code != k_code_call || insn.dst != 0) return unknown(insn);
        switch (insn.src) {
            case static_cast<unsigned>(CallKind::helper):
                return knows_helper_(insn.imm)
                           ? std::string{}
                           : fmt::format("invalid func unknown#{}: this engine has no helper of that number", insn.imm);
            case static_cast<unsigned>(CallKind::local): {
                const std::int64_t target = std::int64_t{at} + 1 + insn.imm;
                const bool inside = target >= 0 && target < static_cast<std::int64_t>(file_.instructions.size());
                const Function* const callee = inside ? file_.function_at(static_cast<std::uint32_t>(target)) : nullptr;
                return callee != nullptr && callee->begin == target
                           ? std::string{}
                           : "call to invalid destination: not the beginning of a function";
            }
            case static_cast<unsigned>(CallKind::kfunc): {
                const Reference* const reference = file_.reference_at(at);
                return reference != nullptr && reference->kind == Reference::Kind::extern_call
                           ? std::string{}
                           : "call of a kfunc that the object does not name";
            }
            default:
                return fmt::format("call of unknown kind {} (src_reg)", unsigned{insn.src});
        }
    }

    const ObjectFile& file_;
    const Function& function_;
    const std::function<bool(std::int32_t)>& knows_helper_;
    Bitmap starts_;
};

}  // namespace

std::vector<bool> reachable_functions(const ObjectFile& file) {
    std::vector<bool> reached(file.functions.size());
    std::vector<std::size_t> to_visit;
    const auto reach = [&](std::size_t index) {
        if (index >= reached.size() || reached[index]) return;
        reached[index] = true;
        to_visit.push_back(index);
    };
    for (std::size_t i = 0; i < file.functions.size(); ++i)
        if (file.functions[i].is_program && file.functions[i].autoload) reach(i);
    while (!to_visit.empty()) {
        const Function& function = file.functions[to_visit.back()];
        to_visit.pop_back();
        for (std::uint32_t at = function.begin; at < function.end; ++at) {
            const Insn insn = file.instructions[at];
            if (insn.code == k_code_call && insn.src == static_cast<unsigned>(CallKind::local)) {
                const std::int64_t target = std::int64_t{at} + 1 + insn.imm;
                if (target < 0 || target >= static_cast<std::int64_t>(file.instructions.size())) continue;
                if (const Function* callee = file.function_at(static_cast<std::uint32_t>(target)))
                    reach(static_cast<std::size_t>(callee - file.functions.data()));
            }
        }
        for (auto at = std::ranges::lower_bound(file.references, function.begin, {}, &Reference::insn);
             at != file.references.end() && at->insn < function.end; ++at)
            if (at->kind == Reference::Kind::function) reach(at->target);
    }
    return reached;
}

Result<void> validate(const ObjectFile& file, const std::function<bool(std::int32_t)>& knows_helper) {
    const std::vector<bool> reached = reachable_functions(file);
    for (std::size_t i = 0; i < file.functions.size(); ++i)
        if (reached[i]) HARENA_CHECK_OK(FunctionCheck{file, file.functions[i], knows_helper}.run());
    return {};
}

}  // namespace harena::bpf
