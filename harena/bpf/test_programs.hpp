// SPDX-License-Identifier: Apache-2.0
#pragma once

// Programs for tests, written instruction by instruction: no compiler stands between the test and the engine.

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "harena/bpf/engine.hpp"
#include "harena/bpf/insn.hpp"
#include "harena/bpf/object_file.hpp"
#include "harena/bpf/process_map.hpp"

namespace harena::bpf::test {

enum Reg : std::uint8_t { r0, r1, r2, r3, r4, r5, r6, r7, r8, r9, r10 };

inline constexpr std::uint64_t k_arena_address = std::uint64_t{1} << 45;  // free under the address sanitizer too
inline constexpr std::uint64_t k_tsan_arena_address = 0x7ec000000000;

[[nodiscard]] constexpr std::uint64_t arena_address() noexcept {
#if defined(__SANITIZE_THREAD__)
    return k_tsan_arena_address;
#else
    return k_arena_address;
#endif
}

using Code = std::vector<Insn>;

[[nodiscard]] constexpr Insn insn(std::uint8_t code, unsigned dst, unsigned src, std::int16_t off,
                                  std::int32_t imm) noexcept {
    return {.code = code,
            .dst = static_cast<std::uint8_t>(dst & 15),
            .src = static_cast<std::uint8_t>(src & 15),
            .off = off,
            .imm = imm};
}
[[nodiscard]] constexpr Insn alu64(AluOp op, Reg dst, std::int32_t imm, std::int16_t off = 0) noexcept {
    return insn(make_code(Class::alu64, op, false), dst, 0, off, imm);
}
[[nodiscard]] constexpr Insn alu64(AluOp op, Reg dst, Reg src, std::int16_t off = 0) noexcept {
    return insn(make_code(Class::alu64, op, true), dst, src, off, 0);
}
[[nodiscard]] constexpr Insn alu32(AluOp op, Reg dst, std::int32_t imm, std::int16_t off = 0) noexcept {
    return insn(make_code(Class::alu, op, false), dst, 0, off, imm);
}
[[nodiscard]] constexpr Insn alu32(AluOp op, Reg dst, Reg src, std::int16_t off = 0) noexcept {
    return insn(make_code(Class::alu, op, true), dst, src, off, 0);
}
[[nodiscard]] constexpr Insn mov(Reg dst, std::int32_t imm) noexcept { return alu64(AluOp::mov, dst, imm); }
[[nodiscard]] constexpr Insn mov(Reg dst, Reg src) noexcept { return alu64(AluOp::mov, dst, src); }
[[nodiscard]] constexpr Insn mov32(Reg dst, Reg src) noexcept { return alu32(AluOp::mov, dst, src); }
[[nodiscard]] constexpr Insn add(Reg dst, std::int32_t imm) noexcept { return alu64(AluOp::add, dst, imm); }
[[nodiscard]] constexpr Insn add(Reg dst, Reg src) noexcept { return alu64(AluOp::add, dst, src); }
[[nodiscard]] constexpr Insn load(Size size, Reg dst, Reg src, std::int16_t off, Mode mode = Mode::mem) noexcept {
    return insn(make_code(Class::ldx, mode, size), dst, src, off, 0);
}
[[nodiscard]] constexpr Insn store(Size size, Reg dst, std::int16_t off, Reg src) noexcept {
    return insn(make_code(Class::stx, Mode::mem, size), dst, src, off, 0);
}
[[nodiscard]] constexpr Insn store(Size size, Reg dst, std::int16_t off, std::int32_t imm) noexcept {
    return insn(make_code(Class::st, Mode::mem, size), dst, 0, off, imm);
}
[[nodiscard]] constexpr Insn atomic(Size size, std::int32_t operation, Reg dst, std::int16_t off, Reg src) noexcept {
    return insn(make_code(Class::stx, Mode::atomic, size), dst, src, off, operation);
}
[[nodiscard]] constexpr Insn jump(std::int16_t off) noexcept { return insn(k_code_ja, 0, 0, off, 0); }
[[nodiscard]] constexpr Insn jump_if(JmpOp op, Reg dst, std::int32_t imm, std::int16_t off) noexcept {
    return insn(make_code(Class::jmp, op, false), dst, 0, off, imm);
}
[[nodiscard]] constexpr Insn jump_if(JmpOp op, Reg dst, Reg src, std::int16_t off) noexcept {
    return insn(make_code(Class::jmp, op, true), dst, src, off, 0);
}
[[nodiscard]] constexpr Insn may_goto(std::int16_t off) noexcept { return insn(k_code_may_goto, 0, 0, off, 0); }
[[nodiscard]] constexpr Insn exit() noexcept { return insn(k_code_exit, 0, 0, 0, 0); }
[[nodiscard]] constexpr Insn call_helper(std::int32_t id) noexcept { return insn(k_code_call, 0, 0, 0, id); }
[[nodiscard]] constexpr Insn call_local(std::int32_t distance) noexcept { return insn(k_code_call, 0, 1, 0, distance); }
[[nodiscard]] constexpr Insn to_program(Reg dst, Reg src) noexcept {
    return insn(make_code(Class::alu64, AluOp::mov, true), dst, src, k_off_addr_space_cast, k_cast_to_program);
}
[[nodiscard]] constexpr Insn to_user(Reg dst, Reg src) noexcept {
    return insn(make_code(Class::alu64, AluOp::mov, true), dst, src, k_off_addr_space_cast, k_cast_to_user);
}
/// Appends `dst = value`, two instructions.
inline void load_imm64(Code& code, Reg dst, std::uint64_t value) {
    code.push_back(insn(k_code_ld_imm64, dst, 0, 0, static_cast<std::int32_t>(value)));
    code.push_back(insn(0, 0, 0, 0, static_cast<std::int32_t>(value >> 32)));
}

/// One instruction or several, for `join`.
struct Piece {
    Code code;

    Piece(Insn one) : code{one} {}               // NOLINT(google-explicit-constructor)
    Piece(Code many) : code{std::move(many)} {}  // NOLINT(google-explicit-constructor)
};
/// Instructions in a row: `join({mov(r2, 0), map_address(r1, 0), exit()})`.
[[nodiscard]] inline Code join(std::initializer_list<Piece> pieces) {
    Code code;
    for (const Piece& piece : pieces) code.insert(code.end(), piece.code.begin(), piece.code.end());
    return code;
}

/// `dst = value`, two instructions, as are all that give an address.
[[nodiscard]] inline Code imm64(Reg dst, std::uint64_t value) {
    Code code;
    load_imm64(code, dst, value);
    return code;
}

// What ObjectBuilder resolves, by number: marked with `off` 1, which no valid instruction of these kinds has.
[[nodiscard]] inline Code map_address(Reg dst, std::int32_t map) {
    return {insn(k_code_ld_imm64, dst, 1, 1, map), insn(0, 0, 0, 0, 0)};
}
[[nodiscard]] inline Code data_address(Reg dst, std::int32_t section, std::int32_t addend = 0) {
    return {insn(k_code_ld_imm64, dst, 2, 1, section), insn(0, 0, 0, 0, addend)};
}
[[nodiscard]] inline Code function_address(Reg dst, std::int32_t function) {
    return {insn(k_code_ld_imm64, dst, 4, 1, function), insn(0, 0, 0, 0, 0)};
}
[[nodiscard]] constexpr Insn call_function(std::int32_t function) noexcept {
    return insn(k_code_call, 0, 1, 1, function);
}
/// The number is the kfunc's in the order in which `ObjectBuilder::kfunc` named them.
[[nodiscard]] constexpr Insn call_kfunc(std::int32_t kfunc) noexcept { return insn(k_code_call, 0, 2, 1, kfunc); }
[[nodiscard]] constexpr Insn call_register(Reg reg) noexcept { return insn(k_code_call_register, reg, 0, 0, 0); }

/// An object made of functions, maps and data, to be loaded into the engine of the process.
class ObjectBuilder {
public:
    ObjectBuilder() {
        file_.name = "test";
        file_.license = "GPL";
    }

    ObjectBuilder& arena(std::uint32_t pages, std::uint64_t address = 0, std::uint32_t flags = 1U << 10) {
        file_.maps.push_back(
            {.name = "arena", .type = map_type::arena, .max_entries = pages, .flags = flags, .map_extra = address});
        return *this;
    }
    ObjectBuilder& map(std::string name, std::uint32_t type, std::uint32_t key_size, std::uint32_t value_size,
                       std::uint32_t entries) {
        file_.maps.push_back({.name = std::move(name),
                              .type = type,
                              .key_size = key_size,
                              .value_size = value_size,
                              .max_entries = entries});
        return *this;
    }
    /// The first function is the program; later ones are subprograms.
    ObjectBuilder& function(std::string name, const Code& code, bool is_global = false) {
        return add(std::move(name), code, file_.functions.empty(), is_global);
    }
    ObjectBuilder& subprogram(std::string name, const Code& code, bool is_global = false) {
        return add(std::move(name), code, false, is_global);
    }
    /// Another program.
    ObjectBuilder& program(std::string name, const Code& code, ProgramType type = ProgramType::syscall) {
        add(std::move(name), code, true, true);
        file_.functions.back().type = type;
        return *this;
    }
    ObjectBuilder& data(std::string name, DataSection::Kind kind, std::vector<std::byte> initial) {
        file_.data.push_back({.name = std::move(name), .kind = kind, .initial = std::move(initial)});
        return *this;
    }
    /// A kfunc that calls name by number.
    ObjectBuilder& kfunc(std::string name, bool weak = false) {
        Extern wanted;
        wanted.name = std::move(name);
        wanted.weak = weak;
        wanted.is_function = true;
        file_.externs.push_back(std::move(wanted));
        return *this;
    }
    /// What the test wants otherwise.
    [[nodiscard]] ObjectFile& file() noexcept { return file_; }
    /// Instruction `at` (of the whole object) refers to map or function number `target`, or to kfunc `name`.
    ObjectBuilder& refer(std::uint32_t at, Reference::Kind kind, std::uint32_t target) {
        file_.references.push_back({.insn = at, .kind = kind, .target = target});
        return *this;
    }
    ObjectBuilder& kfunc_at(std::uint32_t at, std::string name, bool weak = false) {
        kfunc(std::move(name), weak);
        return refer(at, Reference::Kind::extern_call, static_cast<std::uint32_t>(file_.externs.size() - 1));
    }

    /// The object, for any engine.
    [[nodiscard]] ObjectFile build() const {
        ObjectFile file = file_;
        resolve(file);
        return file;
    }
    [[nodiscard]] Result<LoadedObject> load(const LoadOptions& options = {.tuning = {.exact_presence = true}}) const {
        ObjectFile file = build();
        std::vector<DataMemory> memory;
        for (const DataSection& section : file.data) {
            DataMemory one{.address = nullptr,
                           .size = section.initial.size(),
                           .read_only = section.kind == DataSection::Kind::rodata,
                           .owner = nullptr};
            if (section.kind != DataSection::Kind::arena) {
                one.owner = std::shared_ptr<std::byte>{new std::byte[section.initial.size()],
                                                       std::default_delete<std::byte[]>{}};
                one.address = one.owner.get();
                std::ranges::copy(section.initial, one.address);
            }
            memory.push_back(std::move(one));
        }
        return Engine::process().load(std::make_shared<const ObjectFile>(std::move(file)), std::move(memory), options);
    }
    [[nodiscard]] Result<RunResult> run(std::span<std::byte> context = {}, const RunOptions& options = {}) const {
        HARENA_TRY(const LoadedObject loaded, load());
        return loaded.programs.at(0)->run(context, options);
    }

private:
    ObjectBuilder& add(std::string name, const Code& code, bool is_program, bool is_global) {
        Function f;
        f.name = std::move(name);
        f.section = is_program ? "syscall" : ".text";
        f.begin = static_cast<std::uint32_t>(file_.instructions.size());
        f.end = f.begin + static_cast<std::uint32_t>(code.size());
        f.is_program = is_program;
        f.is_global = is_global;
        f.type = ProgramType::syscall;
        file_.functions.push_back(std::move(f));
        file_.instructions.insert(file_.instructions.end(), code.begin(), code.end());
        return *this;
    }

    // What instructions name by number, to references and distances.
    static void resolve(ObjectFile& file) {
        for (std::uint32_t at = 0; at < file.instructions.size(); ++at) {
            Insn& one = file.instructions[at];
            const auto number = static_cast<std::uint32_t>(one.imm);
            const bool load = one.code == k_code_ld_imm64;
            if (one.off != 1 || one.src == 0 || (!load && one.code != k_code_call)) continue;
            one.off = 0;
            if (load) {
                const auto kind = one.src == 1   ? Reference::Kind::map
                                  : one.src == 2 ? Reference::Kind::data
                                                 : Reference::Kind::function;
                file.references.push_back({.insn = at,
                                           .kind = kind,
                                           .target = number,
                                           .addend = static_cast<std::uint32_t>(file.instructions[at + 1].imm)});
                one.imm = file.instructions[++at].imm = 0;
            } else if (one.src == 1) {
                one.imm = static_cast<std::int32_t>(file.functions[number].begin - at - 1);
            } else {
                file.references.push_back({.insn = at, .kind = Reference::Kind::extern_call, .target = number});
            }
        }
        std::ranges::sort(file.references, {}, &Reference::insn);
    }

    ObjectFile file_;
};

}  // namespace harena::bpf::test
