// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cerrno>
#include <cstring>
#include <tuple>

#include "harena/bpf/object_parts.hpp"

namespace harena::bpf {

namespace {

constexpr std::uint64_t k_pointer_bytes = 8;

/// "variable 'head'", or nothing if there is none at `offset`.
std::string variable_at(const ObjectFile& object, std::uint32_t section, std::uint64_t offset) {
    for (const Global& global : object.globals)
        if (global.section == section && global.offset <= offset && offset - global.offset < global.size)
            return fmt::format("variable '{}': ", global.name);
    return {};
}

Result<DataReference> resolve(const ObjectParts& parts, const ElfSection& section, const ElfRelocation& relocation) {
    if (relocation.type != k_reloc_abs64)
        return fail(ENOTSUP, "relocation of type {} in variables; only pointers of 8 bytes are supported",
                    relocation.type);
    if (relocation.offset > section.bytes.size() || section.bytes.size() - relocation.offset < k_pointer_bytes)
        return fail(EINVAL, "a pointer is initialised where the file has no bytes");
    std::uint64_t addend;
    std::memcpy(&addend, &section.bytes[relocation.offset], sizeof addend);
    const ElfSymbol& symbol = parts.elf.symbols()[relocation.symbol];
    if (parts.externs.contains(symbol.index))
        return fail(ENOTSUP, "initialised with the address of '{}', which is in the kernel", symbol.name);
    const SectionRole role = parts.role_of(symbol);
    switch (role.kind) {
        case SectionRole::Kind::code:
            return fail(ENOTSUP,
                        "initialised with the address of function '{}'; pointers to functions in variables are "
                        "not built yet",
                        parts.name_of(symbol));
        case SectionRole::Kind::maps:
            return fail(ENOTSUP,
                        "initialised with the address of map '{}'; pointers to maps in variables are not built "
                        "yet",
                        parts.name_of(symbol));
        case SectionRole::Kind::none:
            return fail(EINVAL, "initialised with the address of '{}', which is no variable", parts.name_of(symbol));
        case SectionRole::Kind::data:
            break;
    }
    const std::uint64_t size = parts.elf.sections()[symbol.section].size;
    if (symbol.value + addend > size)
        return fail(EINVAL, "initialised with the address of '{}' + {}, which is outside of its section ({} bytes)",
                    parts.name_of(symbol), addend, size);
    return DataReference{.section = parts.roles[section.index].base,
                         .offset = relocation.offset,
                         .target = role.base,
                         .addend = symbol.value + addend};
}

}  // namespace

Result<void> link_data(ObjectParts& parts) {
    auto& references = parts.object.data_references;
    for (const ElfSection& section : parts.elf.sections()) {
        const SectionRole role = parts.roles[section.index];
        if (role.kind != SectionRole::Kind::data) continue;
        HARENA_TRY(const std::vector<ElfRelocation> relocations, parts.elf.relocations_of(section));
        for (const ElfRelocation& relocation : relocations) {
            if (relocation.type == k_reloc_none) continue;
            const Result<DataReference> reference = resolve(parts, section, relocation);
            if (!reference) {
                const std::string variable = variable_at(parts.object, role.base, relocation.offset);
                return pass_on(
                    reference.error().in(fmt::format("{}{}", variable, parts.describe(section, relocation.offset))));
            }
            references.push_back(*reference);
        }
    }
    std::ranges::sort(references, {}, [](const DataReference& r) { return std::tuple{r.section, r.offset}; });
    const auto overlap = std::ranges::adjacent_find(references, [](const DataReference& a, const DataReference& b) {
        return a.section == b.section && b.offset - a.offset < k_pointer_bytes;
    });
    if (overlap != references.end())
        return fail(EINVAL, "section '{}' offset {}: two relocations of the same bytes",
                    parts.object.data[overlap->section].name, overlap->offset);
    return {};
}

}  // namespace harena::bpf
