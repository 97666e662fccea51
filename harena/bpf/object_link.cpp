// SPDX-License-Identifier: Apache-2.0
#include <elf.h>

#include <algorithm>
#include <cerrno>

#include "harena/bpf/object_parts.hpp"

namespace harena::bpf {

namespace {

constexpr std::uint8_t k_src_function = 4;  // `src` of ld_imm64: BPF_PSEUDO_FUNC
constexpr auto k_local_call = static_cast<std::uint8_t>(CallKind::local);

/// The distance in a call or a function's ld_imm64 at `from`: counted from the next instruction.
std::int32_t distance(std::uint64_t from, std::uint64_t to) noexcept {
    return static_cast<std::int32_t>(static_cast<std::int64_t>(to) - static_cast<std::int64_t>(from) - 1);
}

/// Where symbol + addend is in a section of `size` bytes; its end counts. 64-bit offsets that objects say in 32 bits
/// may be negative.
std::optional<std::uint64_t> offset_in(std::uint64_t size, std::uint64_t value, std::uint64_t addend) noexcept {
    if (value + addend <= size) return value + addend;
    const auto negative = static_cast<std::uint64_t>(std::int64_t{static_cast<std::int32_t>(addend)});
    if (addend <= UINT32_MAX && value + negative <= size) return value + negative;
    return std::nullopt;
}

/// Links the code of one section.
class CodeLinker {
public:
    CodeLinker(ObjectParts& parts, const ElfSection& section) noexcept
        : parts_{parts}, section_{section}, base_{parts.roles[section.index].base} {}

    Result<void> link() {
        HARENA_TRY(const std::vector<ElfRelocation> relocations, parts_.elf.relocations_of(section_));
        std::vector<bool> relocated(section_.size / sizeof(Insn));
        for (const ElfRelocation& relocation : relocations) {
            if (relocation.type == k_reloc_none) continue;
            if (relocation.offset % sizeof(Insn) != 0)
                return fail(EINVAL, "section '{}' offset {}: relocation inside an instruction", section_.name,
                            relocation.offset);
            const std::size_t index = relocation.offset / sizeof(Insn);
            if (relocated[index])
                return fail(EINVAL, "{}: two relocations", parts_.describe(section_, relocation.offset));
            relocated[index] = true;
            const auto insn = static_cast<std::uint32_t>(base_ + index);
            if (const Result<void> linked = link_one(relocation, insn); !linked)
                return pass_on(linked.error().in(parts_.describe(section_, relocation.offset)));
        }
        return check_calls(relocated);
    }

private:
    Result<void> link_one(const ElfRelocation& relocation, std::uint32_t insn) {
        const ElfSymbol& symbol = parts_.elf.symbols()[relocation.symbol];
        switch (relocation.type) {
            case k_reloc_64_64:
                return link_load(symbol, insn);
            case k_reloc_64_32:
                return link_call(symbol, insn);
            default:
                return fail(EINVAL, "relocation of type {} cannot be in code", relocation.type);
        }
    }

    Result<void> link_call(const ElfSymbol& symbol, std::uint32_t insn) {
        Insn& call = parts_.object.instructions[insn];
        if (call.code != k_code_call || call.src != k_local_call)
            return fail(EINVAL, "relocation of a call, but the instruction is {:#04x} with src {}", call.code,
                        unsigned{call.src});
        if (const auto found = parts_.externs.find(symbol.index); found != parts_.externs.end()) {
            if (!parts_.object.externs[found->second].is_function)
                return fail(EINVAL, "call of '{}', which is a variable", symbol.name);
            call.src = static_cast<std::uint8_t>(CallKind::kfunc) & 0xfU;
            call.imm = 0;
            return refer({.insn = insn, .kind = Reference::Kind::extern_call, .target = found->second, .addend = 0});
        }
        const SectionRole role = parts_.role_of(symbol);
        if (role.kind != SectionRole::Kind::code || symbol.value % sizeof(Insn) != 0)
            return fail(EINVAL, "call of '{}', which is no function", parts_.name_of(symbol));
        const std::int64_t within = static_cast<std::int64_t>(symbol.value / sizeof(Insn)) + call.imm + 1;
        HARENA_TRY(const std::uint32_t function, function_in(symbol, static_cast<std::uint64_t>(within)));
        call.imm = distance(insn, parts_.object.functions[function].begin);
        return {};
    }

    Result<void> link_load(const ElfSymbol& symbol, std::uint32_t insn) {
        const Function* const function = parts_.object.function_at(insn);
        if (parts_.object.instructions[insn].code != k_code_ld_imm64)
            return fail(EINVAL, "relocation of a 64-bit load, but the instruction is {:#04x}",
                        parts_.object.instructions[insn].code);
        if (function == nullptr || insn + 1 >= function->end)
            return fail(EINVAL, "a 64-bit load is cut by the end of the function");
        Insn& low = parts_.object.instructions[insn];
        Insn& high = parts_.object.instructions[insn + 1];
        if (low.src != 0) return fail(EINVAL, "relocation of a 64-bit load with src {}", unsigned{low.src});
        const std::uint64_t addend =
            static_cast<std::uint32_t>(low.imm) | std::uint64_t{static_cast<std::uint32_t>(high.imm)} << 32;
        HARENA_TRY(Reference reference, target_of(symbol, addend));
        reference.insn = insn;
        low.imm = 0;
        high.imm = 0;
        if (reference.kind == Reference::Kind::function) {
            low.src = k_src_function;
            low.imm = distance(insn, parts_.object.functions[reference.target].begin);
        }
        return refer(reference);
    }

    /// What a 64-bit load of symbol + addend loads; `insn` of the result is not set.
    Result<Reference> target_of(const ElfSymbol& symbol, std::uint64_t addend) const {
        if (const auto found = parts_.externs.find(symbol.index); found != parts_.externs.end()) {
            if (addend != 0) return fail(EINVAL, "address of '{}' + {}, which is not known", symbol.name, addend);
            return Reference{.kind = Reference::Kind::extern_address, .target = found->second};
        }
        const SectionRole role = parts_.role_of(symbol);
        if (role.kind == SectionRole::Kind::none)
            return fail(EINVAL, "address of '{}', which is no map, variable or function", parts_.name_of(symbol));
        const ElfSection& section = parts_.elf.sections()[symbol.section];
        const std::optional<std::uint64_t> offset = offset_in(section.size, symbol.value, addend);
        if (!offset)
            return fail(EINVAL, "address of '{}' + {} is outside of section '{}' ({} bytes)", parts_.name_of(symbol),
                        addend, section.name, section.size);
        switch (role.kind) {
            case SectionRole::Kind::data:
                return Reference{.kind = Reference::Kind::data, .target = role.base, .addend = *offset};
            case SectionRole::Kind::maps: {
                const auto map = std::ranges::lower_bound(parts_.placed_maps, *offset, {}, &PlacedMap::offset);
                if (map == parts_.placed_maps.end() || map->offset != *offset)
                    return fail(EINVAL, "address of '{}' + {}, where no map begins", parts_.name_of(symbol), addend);
                const auto target = static_cast<std::uint32_t>(map - parts_.placed_maps.begin());
                return Reference{.kind = Reference::Kind::map, .target = target};
            }
            case SectionRole::Kind::code: {
                if (*offset % sizeof(Insn) != 0)
                    return fail(EINVAL, "address of '{}' + {}, where no function begins", parts_.name_of(symbol),
                                addend);
                HARENA_TRY(const std::uint32_t function, function_in(symbol, *offset / sizeof(Insn)));
                return Reference{.kind = Reference::Kind::function, .target = function};
            }
            case SectionRole::Kind::none:
                break;
        }
        return fail(EINVAL, "address of '{}', which is nothing", parts_.name_of(symbol));
    }

    /// The function that begins at instruction `index` of the symbol's section.
    Result<std::uint32_t> function_in(const ElfSymbol& symbol, std::uint64_t index) const {
        const ElfSection& section = parts_.elf.sections()[symbol.section];
        std::optional<std::uint32_t> function;
        if (index < section.size / sizeof(Insn))
            function = function_beginning_at(parts_.object, parts_.roles[section.index].base + index);
        if (!function)
            return fail(EINVAL, "refers to instruction {} of section '{}', where no function begins",
                        static_cast<std::int64_t>(index), section.name);
        return *function;
    }

    Result<void> refer(const Reference& reference) {
        parts_.object.references.push_back(reference);
        return {};
    }

    /// Calls without relocation stay in their section: their distance is right as it stands.
    Result<void> check_calls(const std::vector<bool>& relocated) const {
        const auto& instructions = parts_.object.instructions;
        const std::size_t count = relocated.size();
        for (std::size_t index = 0; index < count; ++index) {
            const Insn insn = instructions[base_ + index];
            if (insn.code == k_code_ld_imm64) ++index;  // the second half is no instruction
            if (insn.code != k_code_call || insn.src != k_local_call || relocated[index]) continue;
            const std::int64_t target = static_cast<std::int64_t>(index) + 1 + insn.imm;
            if (target < 0 || static_cast<std::uint64_t>(target) >= count ||
                !function_beginning_at(parts_.object, base_ + static_cast<std::uint64_t>(target)))
                return fail(EINVAL, "{}: calls instruction {} of the section, where no function begins",
                            parts_.describe(section_, index * sizeof(Insn)), target);
        }
        return {};
    }

    ObjectParts& parts_;
    const ElfSection& section_;
    const std::uint32_t base_;
};

}  // namespace

Result<void> link_code(ObjectParts& parts) {
    for (const ElfSection& section : parts.elf.sections())
        if (parts.roles[section.index].kind == SectionRole::Kind::code)
            HARENA_CHECK_OK(CodeLinker{parts, section}.link());
    std::ranges::sort(parts.object.references, {}, &Reference::insn);
    return {};
}

}  // namespace harena::bpf
