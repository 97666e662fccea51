// SPDX-License-Identifier: Apache-2.0
#include "harena/bpf/map_definitions.hpp"

#include <elf.h>

#include <algorithm>
#include <cerrno>
#include <set>
#include <string_view>
#include <unordered_map>

#include <bpf/btf.h>

namespace harena::bpf {

namespace {

constexpr std::uint32_t k_type_prog_array = 3;            // BPF_MAP_TYPE_PROG_ARRAY
constexpr std::uint32_t k_value_bytes_of_references = 4;  // of maps that hold programs or maps
enum Pinning : std::uint64_t { k_pin_none = 0, k_pin_by_name = 1 };

/// Reads the members of one map's struct into its definition.
class MapReader {
public:
    MapReader(const Btf& btf, PlacedMap& map) noexcept : btf_{btf}, map_{map}, definition_{map.definition} {}

    Result<void> read(TypeId variable_type) {
        HARENA_TRY(const TypeId id, btf_.skip_modifiers(variable_type));
        const btf_type* const type = btf_.type(id);
        if (type == nullptr || !btf_is_struct(type))
            return fail(EINVAL, "its type is {}, not a struct of __uint, __type and __array members", btf_.name_of(id));
        const btf_member* const members = btf_members(type);
        std::set<std::string_view> seen;  // also bounds the work: few names are known
        for (unsigned i = 0; i < btf_vlen(type); ++i) {
            const std::string_view name = btf_.string(members[i].name_off);
            if (!seen.insert(name).second) return fail(EINVAL, "member '{}' twice", name);
            if (const Result<void> read = read_member(name, *type, i); !read)
                return pass_on(read.error().in(fmt::format("member '{}'", name)));
        }
        if (definition_.type == 0) return fail(EINVAL, "has no 'type'");
        return {};
    }

private:
    Result<void> read_member(std::string_view name, const btf_type& type, unsigned index) {
        const TypeId member = btf_members(&type)[index].type;
        if (name == "type") return read_u32(member, definition_.type);
        if (name == "max_entries") return read_u32(member, definition_.max_entries);
        if (name == "map_flags") return read_u32(member, definition_.flags);
        if (name == "key_size") return read_size(member, definition_.key_size);
        if (name == "value_size") return read_size(member, definition_.value_size);
        if (name == "key") return read_type(member, definition_.key_type, definition_.key_size);
        if (name == "value") return read_type(member, definition_.value_type, definition_.value_size);
        if (name == "values") return read_values(member, btf_member_bit_offset(&type, index));
        if (name == "map_extra") {
            HARENA_TRY(definition_.map_extra, read_number(member));
            return {};
        }
        if (name == "pinning") {
            HARENA_TRY(const std::uint64_t pinning, read_number(member));
            if (pinning > k_pin_by_name) return fail(EINVAL, "{} is neither LIBBPF_PIN_NONE nor _BY_NAME", pinning);
            definition_.pin_by_name = pinning == k_pin_by_name;
            return {};
        }
        if (name == "numa_node") return fail(ENOTSUP, "placement of maps on NUMA nodes is not built yet");
        return fail(EINVAL, "unknown member of a map");
    }

    /// `__uint(name, n)` is a pointer to an array of n ints; `__ulong(name, n)` an enum with the only value n.
    Result<std::uint64_t> read_number(TypeId member) const {
        HARENA_TRY(const TypeId id, btf_.skip_modifiers(member));
        const btf_type* const type = btf_.type(id);
        if (type != nullptr && btf_is_enum(type) && btf_vlen(type) == 1) {
            const auto value = btf_enum(type)->val;
            return btf_kflag(type) ? static_cast<std::uint64_t>(std::int64_t{value})
                                   : static_cast<std::uint32_t>(value);
        }
        if (type != nullptr && btf_is_enum64(type) && btf_vlen(type) == 1) return btf_enum64_value(btf_enum64(type));
        HARENA_TRY(const TypeId pointed, pointed_to(id));
        const btf_type* const array = btf_.type(pointed);
        if (array == nullptr || !btf_is_array(array))
            return fail(EINVAL, "is {}, not made by __uint or __ulong", btf_.name_of(member));
        return btf_array(array)->nelems;
    }

    Result<void> read_u32(TypeId member, std::uint32_t& out) const {
        HARENA_TRY(const std::uint64_t number, read_number(member));
        if (number > UINT32_MAX) return fail(EINVAL, "{} does not fit in 32 bits", number);
        out = static_cast<std::uint32_t>(number);
        return {};
    }

    /// Key and value sizes may be said twice, if they are equal.
    Result<void> read_size(TypeId member, std::uint32_t& out) const {
        std::uint32_t size = 0;
        HARENA_CHECK_OK(read_u32(member, size));
        if (out != 0 && out != size) return fail(EINVAL, "{} bytes contradict the {} of its type", size, out);
        out = size;
        return {};
    }

    /// `__type(name, T)` is a pointer to T.
    Result<void> read_type(TypeId member, TypeId& type, std::uint32_t& size) const {
        HARENA_TRY(const TypeId id, btf_.skip_modifiers(member));
        const btf_type* const pointer = btf_.type(id);
        if (pointer == nullptr || !btf_is_ptr(pointer))
            return fail(EINVAL, "is {}, not made by __type", btf_.name_of(member));
        HARENA_TRY(const std::uint64_t bytes, btf_.size_of(pointer->type));
        if (bytes > UINT32_MAX) return fail(EINVAL, "{} bytes do not fit in 32 bits", bytes);
        if (size != 0 && size != bytes)
            return fail(EINVAL, "{} has {} bytes, which contradicts the size of {}", btf_.name_of(pointer->type), bytes,
                        size);
        type = pointer->type;
        size = static_cast<std::uint32_t>(bytes);
        return {};
    }

    /// `__array(values, T)` is an array, often without a length, of pointers to T.
    Result<void> read_values(TypeId member, std::uint64_t bit_offset) const {
        HARENA_TRY(const TypeId id, btf_.skip_modifiers(member));
        const btf_type* const array = btf_.type(id);
        if (array == nullptr || !btf_is_array(array))
            return fail(EINVAL, "is {}, not made by __array", btf_.name_of(member));
        HARENA_TRY(const TypeId pointed, pointed_to(btf_array(array)->type));
        const btf_type* const element = btf_.type(pointed);
        if (element != nullptr && btf_is_struct(element)) return fail(ENOTSUP, "maps in maps are not built yet");
        if (element == nullptr || !btf_is_func_proto(element) || definition_.type != k_type_prog_array)
            return fail(EINVAL, "{} can be in a program array only, and 'type' must come first", btf_.name_of(member));
        if (bit_offset % 64 != 0) return fail(EINVAL, "is not aligned ({} bits)", bit_offset);
        map_.values_offset = bit_offset / 8;
        definition_.value_size = k_value_bytes_of_references;
        return {};
    }

    Result<TypeId> pointed_to(TypeId pointer) const {
        HARENA_TRY(const TypeId id, btf_.skip_modifiers(pointer));
        const btf_type* const type = btf_.type(id);
        if (type == nullptr || !btf_is_ptr(type)) return fail(EINVAL, "{} is no pointer", btf_.name_of(pointer));
        return btf_.skip_modifiers(type->type);
    }

    const Btf& btf_;
    PlacedMap& map_;
    MapDefinition& definition_;
};

}  // namespace

Result<std::vector<PlacedMap>> read_map_definitions(const ElfFile& elf, const ElfSection& maps, const Btf& btf) {
    const btf_type* const variables = btf.type(btf.find_data_section(maps.name));
    if (variables == nullptr) return fail(EINVAL, "has no types in .BTF: compile with -g");
    std::unordered_map<std::string_view, const ElfSymbol*> symbols;
    for (const ElfSymbol& symbol : elf.symbols())
        if (symbol.section == maps.index && symbol.type == STT_OBJECT) symbols.emplace(symbol.name, &symbol);

    std::vector<PlacedMap> placed;
    placed.reserve(btf_vlen(variables));
    for (unsigned i = 0; i < btf_vlen(variables); ++i) {
        const btf_type* const variable = btf.type(btf_var_secinfos(variables)[i].type);
        const std::string_view name = btf.string(variable->name_off);
        const auto symbol = symbols.find(name);
        if (symbol == symbols.end() || !btf_is_var(variable))
            return fail(EINVAL, "map '{}' of .BTF is not among the symbols of the section, or is there twice", name);
        const ElfSymbol& place = *symbol->second;
        symbols.erase(symbol);
        if (place.value > maps.size || place.size > maps.size - place.value || place.size == 0)
            return fail(EINVAL, "map '{}' ({} bytes at offset {}) does not fit in {} bytes", name, place.size,
                        place.value, maps.size);
        PlacedMap& map = placed.emplace_back();
        map.definition.name = name;
        map.offset = place.value;
        map.size = place.size;
        if (const Result<void> read = MapReader{btf, map}.read(variable->type); !read)
            return pass_on(read.error().in(fmt::format("offset {}: map '{}'", map.offset, name)));
    }
    std::ranges::sort(placed, {}, &PlacedMap::offset);
    for (std::size_t i = 1; i < placed.size(); ++i)
        if (placed[i - 1].offset + placed[i - 1].size > placed[i].offset)
            return fail(EINVAL, "offset {}: maps '{}' and '{}' overlap", placed[i].offset,
                        placed[i - 1].definition.name, placed[i].definition.name);
    if (!symbols.empty()) {
        const auto& [name, symbol] = *symbols.begin();
        return fail(EINVAL, "offset {}: map '{}' has no type in .BTF", symbol->value, name);
    }
    return placed;
}

}  // namespace harena::bpf
