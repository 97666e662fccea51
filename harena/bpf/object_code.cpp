// SPDX-License-Identifier: Apache-2.0
#include <elf.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <set>
#include <tuple>

#include "harena/bpf/object_parts.hpp"
#include "harena/bpf/program_type.hpp"

namespace harena::bpf {

namespace {

constexpr std::size_t k_max_instructions = 1'000'000;
constexpr std::string_view k_subprograms_only = ".text";

Result<void> add_section(ObjectParts& parts, const ElfSection& section) {
    auto& instructions = parts.object.instructions;
    if (section.size % sizeof(Insn) != 0)
        return fail(EINVAL, "section '{}' offset {}: {} bytes are no multiple of {}", section.name,
                    section.size - section.size % sizeof(Insn), section.size, sizeof(Insn));
    const std::size_t count = section.size / sizeof(Insn);
    if (count > k_max_instructions - instructions.size())
        return fail(E2BIG, "section '{}' offset 0: more than {} instructions", section.name, k_max_instructions);
    const std::size_t base = instructions.size();
    parts.roles[section.index] = {.kind = SectionRole::Kind::code, .base = static_cast<std::uint32_t>(base)};
    instructions.resize(base + count);
    std::memcpy(&instructions[base], section.bytes.data(), section.size);
    return {};
}

/// Whether the symbol can be called from, or replaced by, other objects.
bool has_global_linkage(const ElfSymbol& symbol) noexcept {
    return symbol.binding != STB_LOCAL && symbol.visibility != STV_HIDDEN && symbol.visibility != STV_INTERNAL;
}

Result<void> add_function(ObjectParts& parts, const ElfSection& section, const ElfSymbol& symbol) {
    if (symbol.name.empty()) return fail(EINVAL, "function without a name");
    if (symbol.value % sizeof(Insn) != 0 || symbol.size % sizeof(Insn) != 0)
        return fail(EINVAL, "function '{}' ({} bytes) is not aligned to instructions", symbol.name, symbol.size);
    if (symbol.size == 0) return fail(EINVAL, "function '{}' is empty", symbol.name);
    if (symbol.value > section.size || symbol.size > section.size - symbol.value)
        return fail(EINVAL, "function '{}' ({} bytes) ends outside the section ({} bytes)", symbol.name, symbol.size,
                    section.size);
    const std::uint32_t base = parts.roles[section.index].base;
    const SectionMeaning meaning = meaning_of_section(section.name);
    const bool is_program = section.name != k_subprograms_only && symbol.binding != STB_LOCAL;
    const bool wanted = std::ranges::find(parts.options.also_load, symbol.name) != parts.options.also_load.end();
    parts.object.functions.push_back({
        .name = std::string{symbol.name},
        .section = std::string{section.name},
        .begin = base + static_cast<std::uint32_t>(symbol.value / sizeof(Insn)),
        .end = base + static_cast<std::uint32_t>((symbol.value + symbol.size) / sizeof(Insn)),
        .is_program = is_program,
        .is_global = has_global_linkage(symbol),
        .autoload = meaning.autoload || wanted,
        .type = is_program ? meaning.type : ProgramType::unspecified,
        .btf_func = k_no_type,
    });
    return {};
}

/// Checks that the functions, which are in order, leave no instruction out and share none.
Result<void> check_cover(const ObjectParts& parts) {
    const auto& functions = parts.object.functions;
    auto next = functions.begin();
    for (const ElfSection& section : parts.elf.sections()) {
        const SectionRole role = parts.roles[section.index];
        if (role.kind != SectionRole::Kind::code) continue;
        const auto offset_of = [&](std::uint32_t insn) { return (insn - role.base) * sizeof(Insn); };
        const auto end = role.base + static_cast<std::uint32_t>(section.size / sizeof(Insn));
        std::uint32_t covered = role.base;
        for (; next != functions.end() && next->begin < end; covered = next->end, ++next) {
            if (next->begin < covered)
                return fail(EINVAL, "section '{}' offset {}: functions '{}' and '{}' overlap", section.name,
                            offset_of(next->begin), std::prev(next)->name, next->name);
            if (next->begin > covered) break;
        }
        if (covered != end)
            return fail(EINVAL, "section '{}' offset {}: instructions that belong to no function", section.name,
                        offset_of(covered));
    }
    return {};
}

}  // namespace

Result<void> add_code(ObjectParts& parts) {
    std::set<std::string_view> names;
    for (const ElfSection& section : parts.elf.sections()) {
        if (!section.is_code() || section.size == 0) continue;
        if (section.name.empty())
            return fail(EINVAL, "section {} offset 0: code without a section name", section.index);
        if (!names.insert(section.name).second)
            return fail(EINVAL, "section '{}' offset 0: a second code section of that name", section.name);
        HARENA_CHECK_OK(add_section(parts, section));
    }
    if (parts.object.instructions.empty()) return fail(EINVAL, "has no code: no executable section with instructions");

    std::vector<const ElfSymbol*> symbols;
    for (const ElfSymbol& symbol : parts.elf.symbols())
        if (symbol.type == STT_FUNC && symbol.section != SHN_UNDEF) symbols.push_back(&symbol);
    // Sections were laid out in their order: this is the order of the first instructions.
    std::ranges::sort(symbols, {}, [](const ElfSymbol* symbol) { return std::tuple{symbol->section, symbol->value}; });
    for (const ElfSymbol* symbol : symbols) {
        if (parts.role_of(*symbol).kind != SectionRole::Kind::code)
            return fail(EINVAL, "function '{}' is in section {}, which has no code", symbol->name, symbol->section);
        const ElfSection& section = parts.elf.sections()[symbol->section];
        if (const Result<void> added = add_function(parts, section, *symbol); !added)
            return pass_on(added.error().in(fmt::format("section '{}' offset {}", section.name, symbol->value)));
    }
    return check_cover(parts);
}

}  // namespace harena::bpf
