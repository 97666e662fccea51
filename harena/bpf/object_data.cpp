// SPDX-License-Identifier: Apache-2.0
#include <elf.h>

#include <algorithm>
#include <cerrno>
#include <optional>
#include <string_view>

#include <bpf/btf.h>

#include "harena/base/page_math.hpp"
#include "harena/bpf/object_parts.hpp"

namespace harena::bpf {

namespace {

constexpr std::uint64_t k_max_section_bytes = 64 * k_mib;
constexpr std::uint64_t k_max_arena_section_bytes = 4 * k_gib;
/// Of all sections together, beyond the size of the file: headers of many sections can point to the same bytes, or to
/// none.
constexpr std::uint64_t k_max_data_bytes = 256 * k_mib;

/// Whether `name` is `family` or begins with `family` and a dot.
bool is_of_family(std::string_view name, std::string_view family) noexcept {
    return name.starts_with(family) && (name.size() == family.size() || name[family.size()] == '.');
}

std::optional<DataSection::Kind> kind_of(std::string_view name) noexcept {
    if (is_of_family(name, ".data")) return DataSection::Kind::data;
    if (is_of_family(name, ".bss")) return DataSection::Kind::bss;
    if (is_of_family(name, ".rodata")) return DataSection::Kind::rodata;
    if (is_of_family(name, ".addr_space.1")) return DataSection::Kind::arena;
    return std::nullopt;
}

Result<void> add_section(ObjectParts& parts, const ElfSection& section, DataSection::Kind kind, std::uint64_t& total) {
    const bool in_file = section.type != SHT_NOBITS;
    const bool is_large_arena = kind == DataSection::Kind::arena && in_file;
    const std::uint64_t limit = is_large_arena ? k_max_arena_section_bytes : k_max_section_bytes;
    if (section.size > limit)
        return fail(E2BIG, "section '{}': {} bytes of variables, at most {} are supported", section.name, section.size,
                    limit);
    total += section.size;
    if (total > k_max_data_bytes + parts.elf.file_bytes())
        return fail(E2BIG, "section '{}': with it, the variables of all sections have {} bytes, which is too much",
                    section.name, total);
    parts.roles[section.index] = {.kind = SectionRole::Kind::data,
                                  .base = static_cast<std::uint32_t>(parts.object.data.size())};
    DataSection& data = parts.object.data.emplace_back();
    data.name = section.name;
    data.kind = kind;
    if (in_file) {
        data.initial.assign(section.bytes.begin(), section.bytes.end());
    } else {
        data.initial.resize(section.size);
    }
    return {};
}

/// The variables of BTF's section `name` by their names.
std::unordered_map<std::string_view, TypeId> variables_of(const Btf& btf, std::string_view name) {
    std::unordered_map<std::string_view, TypeId> variables;
    const btf_type* const section = btf.type(btf.find_data_section(name));
    if (section == nullptr) return variables;
    for (unsigned i = 0; i < btf_vlen(section); ++i) {
        const btf_type* const variable = btf.type(btf_var_secinfos(section)[i].type);
        if (btf_is_var(variable)) variables.emplace(btf.string(variable->name_off), variable->type);
    }
    return variables;
}

Result<void> add_globals(ObjectParts& parts) {
    // Offsets and sizes come from the symbols: clang leaves them out of BTF for linkers to fill in.
    std::unordered_map<std::string_view, std::unordered_map<std::string_view, TypeId>> types;
    for (const ElfSymbol& symbol : parts.elf.symbols()) {
        const SectionRole role = parts.role_of(symbol);
        if (symbol.type != STT_OBJECT || role.kind != SectionRole::Kind::data) continue;
        const ElfSection& section = parts.elf.sections()[symbol.section];
        if (symbol.value > section.size || symbol.size > section.size - symbol.value)
            return fail(EINVAL, "section '{}' offset {}: variable '{}' ({} bytes) ends outside the section ({} bytes)",
                        section.name, symbol.value, symbol.name, symbol.size, section.size);
        auto of_section = types.find(section.name);
        if (of_section == types.end())
            of_section = types.emplace(section.name, variables_of(*parts.object.btf, section.name)).first;
        const auto type = of_section->second.find(symbol.name);
        parts.object.globals.push_back({.name = std::string{symbol.name},
                                        .section = role.base,
                                        .offset = symbol.value,
                                        .size = symbol.size,
                                        .type = type == of_section->second.end() ? k_no_type : type->second});
    }
    return {};
}

}  // namespace

Result<void> add_data(ObjectParts& parts) {
    std::uint64_t total = 0;
    for (const ElfSection& section : parts.elf.sections()) {
        const bool holds_bytes = section.type == SHT_PROGBITS || section.type == SHT_NOBITS;
        if (!holds_bytes || (section.flags & SHF_ALLOC) == 0 || (section.flags & SHF_EXECINSTR) != 0) continue;
        if (section.size == 0) continue;
        if (const auto kind = kind_of(section.name)) HARENA_CHECK_OK(add_section(parts, section, *kind, total));
    }
    return add_globals(parts);
}

}  // namespace harena::bpf
