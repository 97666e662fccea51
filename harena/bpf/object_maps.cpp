// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cerrno>
#include <cstring>

#include "harena/bpf/object_parts.hpp"

namespace harena::bpf {

namespace {

constexpr std::uint64_t k_pointer_bytes = 8;

/// The map whose variable holds `offset`, or nullptr.
PlacedMap* map_at(std::vector<PlacedMap>& maps, std::uint64_t offset) noexcept {
    const auto after = std::ranges::upper_bound(maps, offset, {}, &PlacedMap::offset);
    if (after == maps.begin()) return nullptr;
    PlacedMap& map = *std::prev(after);
    return offset < map.offset + map.size ? &map : nullptr;
}

/// Fills one slot of a program array: `.values = {[index] = program}`.
Result<void> add_initial_program(ObjectParts& parts, const ElfSection& maps, const ElfRelocation& relocation) {
    PlacedMap* const map = map_at(parts.placed_maps, relocation.offset);
    if (map == nullptr) return fail(EINVAL, "initialiser outside of every map");
    const std::string& name = map->definition.name;
    if (relocation.type != k_reloc_abs64)
        return fail(EINVAL, "map '{}': relocation of type {} instead of {}", name, relocation.type, k_reloc_abs64);
    if (!map->values_offset || relocation.offset - map->offset < *map->values_offset)
        return fail(EINVAL, "map '{}': initialiser of a member other than 'values'", name);
    const std::uint64_t within = relocation.offset - map->offset - *map->values_offset;
    const std::uint64_t index = within / k_pointer_bytes;
    if (within % k_pointer_bytes != 0 || index >= map->definition.max_entries)
        return fail(EINVAL, "map '{}': initialiser at byte {} of 'values', which has {} entries", name, within,
                    map->definition.max_entries);

    const ElfSymbol& symbol = parts.elf.symbols()[relocation.symbol];
    const SectionRole role = parts.role_of(symbol);
    std::uint64_t addend = 0;
    if (relocation.offset > maps.bytes.size() || maps.bytes.size() - relocation.offset < sizeof addend)
        return fail(EINVAL, "map '{}': initialiser outside of the section's bytes", name);
    std::memcpy(&addend, &maps.bytes[relocation.offset], sizeof addend);
    const std::uint64_t target = symbol.value + addend;
    std::optional<std::uint32_t> function;
    if (role.kind == SectionRole::Kind::code && target % sizeof(Insn) == 0 &&
        target < parts.elf.sections()[symbol.section].size)
        function = function_beginning_at(parts.object, role.base + target / sizeof(Insn));
    if (!function || !parts.object.functions[*function].is_program)
        return fail(EINVAL, "map '{}': entry {} is '{}' + {}, which is no program", name, index, parts.name_of(symbol),
                    addend);
    map->definition.initial_programs.push_back(
        {.index = static_cast<std::uint32_t>(index), .function = parts.object.functions[*function].name});
    return {};
}

}  // namespace

Result<void> add_maps(ObjectParts& parts) {
    HARENA_TRY(const ElfSection* const section, parts.elf.find_section(".maps"));
    if (section == nullptr || section->size == 0) return {};
    parts.roles[section->index] = {.kind = SectionRole::Kind::maps, .base = 0};
    Result<std::vector<PlacedMap>> placed = read_map_definitions(parts.elf, *section, *parts.object.btf);
    if (!placed) return pass_on(placed.error().in("section '.maps'"));
    parts.placed_maps = std::move(*placed);

    HARENA_TRY(const std::vector<ElfRelocation> relocations, parts.elf.relocations_of(*section));
    for (const ElfRelocation& relocation : relocations) {
        if (relocation.type == k_reloc_none) continue;
        if (const Result<void> added = add_initial_program(parts, *section, relocation); !added)
            return pass_on(added.error().in(parts.describe(*section, relocation.offset)));
    }
    for (PlacedMap& map : parts.placed_maps) {
        auto& programs = map.definition.initial_programs;
        std::ranges::sort(programs, {}, &InitialProgram::index);
        const auto twice = std::ranges::adjacent_find(programs, {}, &InitialProgram::index);
        if (twice != programs.end())
            return fail(EINVAL, "section '.maps' offset {}: map '{}': entry {} is initialised twice", map.offset,
                        map.definition.name, twice->index);
        parts.object.maps.push_back(map.definition);
    }
    return {};
}

}  // namespace harena::bpf
