// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "harena/base/os/sys_result.hpp"
#include "harena/base/result.hpp"
#include "harena/bpf/insn.hpp"

namespace harena::kernel {

/// A program of harena's own, written instruction by instruction.
class Assembly {
public:
    void mov(unsigned dst, unsigned src) { emit(code(bpf::AluOp::mov, true), dst, src, 0, 0); }
    void mov_imm(unsigned dst, std::int32_t imm) { emit(code(bpf::AluOp::mov, false), dst, 0, 0, imm); }
    void add(unsigned dst, unsigned src) { emit(code(bpf::AluOp::add, true), dst, src, 0, 0); }
    void add_imm(unsigned dst, std::int32_t imm) { emit(code(bpf::AluOp::add, false), dst, 0, 0, imm); }
    void shift_left_imm(unsigned dst, std::int32_t imm) { emit(code(bpf::AluOp::lsh, false), dst, 0, 0, imm); }
    void shift_right_imm(unsigned dst, std::int32_t imm) { emit(code(bpf::AluOp::rsh, false), dst, 0, 0, imm); }
    void and_imm(unsigned dst, std::int32_t imm) { emit(code(bpf::AluOp::and_, false), dst, 0, 0, imm); }
    /// Adds src to *(dst + offset), 8 bytes; src becomes what was there.
    void fetch_add(unsigned dst, std::int16_t offset, unsigned src) {
        emit(bpf::make_code(bpf::Class::stx, bpf::Mode::atomic, bpf::Size::dw), dst, src, offset, bpf::k_atomic_fetch);
    }
    /// dst = *(src + offset), zero-extended.
    void load(bpf::Size size, unsigned dst, unsigned src, std::int16_t offset) {
        emit(bpf::make_code(bpf::Class::ldx, bpf::Mode::mem, size), dst, src, offset, 0);
    }
    /// *(dst + offset) = src.
    void store(bpf::Size size, unsigned dst, std::int16_t offset, unsigned src) {
        emit(bpf::make_code(bpf::Class::stx, bpf::Mode::mem, size), dst, src, offset, 0);
    }
    void load_map(unsigned dst, int map) {
        emit(bpf::k_code_ld_imm64, dst, 1, 0, map);
        emit(0, 0, 0, 0, 0);
    }
    /// The address of the only value of an array map.
    void load_map_value(unsigned dst, int map) {
        emit(bpf::k_code_ld_imm64, dst, 2, 0, map);
        emit(0, 0, 0, 0, 0);
    }
    /// dst = the program's form of the user pointer in src.
    void cast_to_program(unsigned dst, unsigned src) {
        emit(code(bpf::AluOp::mov, true), dst, src, bpf::k_off_addr_space_cast, bpf::k_cast_to_program);
    }
    void call_helper(std::int32_t id) { emit(bpf::k_code_call, 0, 0, 0, id); }
    void call_kfunc(std::uint32_t id) { emit(bpf::k_code_call, 0, 2, 0, static_cast<std::int32_t>(id)); }
    void exit() { emit(bpf::k_code_exit, 0, 0, 0, 0); }

    /// A jump to a place that comes later: `land` says where.
    [[nodiscard]] std::size_t jump_if(bpf::JmpOp op, unsigned dst, std::int32_t imm) {
        emit(bpf::make_code(bpf::Class::jmp, op, false), dst, 0, 0, imm);
        return code_.size() - 1;
    }
    [[nodiscard]] std::size_t jump() {
        emit(bpf::k_code_ja, 0, 0, 0, 0);
        return code_.size() - 1;
    }
    [[nodiscard]] std::size_t may_goto() {
        emit(bpf::k_code_may_goto, 0, 0, 0, 0);
        return code_.size() - 1;
    }
    /// The next instruction is where the jump at `from` goes.
    void land(std::size_t from) { code_[from].off = static_cast<std::int16_t>(code_.size() - from - 1); }
    [[nodiscard]] std::size_t here() const noexcept { return code_.size(); }
    void jump_back(std::size_t to) {
        const auto distance = static_cast<std::int64_t>(to) - static_cast<std::int64_t>(code_.size()) - 1;
        emit(bpf::k_code_ja, 0, 0, static_cast<std::int16_t>(distance), 0);
    }

    [[nodiscard]] const std::vector<bpf::Insn>& instructions() const noexcept { return code_; }

    /// Loads it as a program of type syscall. Errors: the kernel's, with the end of the verifier's log.
    [[nodiscard]] Result<os::FileDescriptor> load(std::string_view name) const;
    /// Loads it as a program for tracepoints.
    [[nodiscard]] Result<os::FileDescriptor> load_tracer(std::string_view name) const;

private:
    static std::uint8_t code(bpf::AluOp op, bool source_register) {
        return bpf::make_code(bpf::Class::alu64, op, source_register);
    }
    void emit(std::uint8_t code, unsigned dst, unsigned src, std::int16_t off, std::int32_t imm) {
        code_.push_back({.code = code,
                         .dst = static_cast<std::uint8_t>(dst & 15),
                         .src = static_cast<std::uint8_t>(src & 15),
                         .off = off,
                         .imm = imm});
    }

    std::vector<bpf::Insn> code_;
};

}  // namespace harena::kernel
