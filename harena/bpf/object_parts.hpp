// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

#include "harena/base/result.hpp"
#include "harena/bpf/btf_ext.hpp"
#include "harena/bpf/elf_file.hpp"
#include "harena/bpf/map_definitions.hpp"
#include "harena/bpf/object_file.hpp"

/// The steps of `ObjectFile::parse`, in their order. Each reads `elf` and adds to `object`.
namespace harena::bpf {

/// What became of an ELF section.
struct SectionRole {
    enum class Kind : std::uint8_t { none, code, data, maps };
    Kind kind = Kind::none;
    std::uint32_t base = 0;  // code: its first instruction; data: its index in `ObjectFile::data`
};

/// An object under construction.
struct ObjectParts {
    const ElfFile& elf;
    const ObjectFileOptions& options;
    ObjectFile& object;
    std::vector<SectionRole> roles;                            // by section index
    std::vector<PlacedMap> placed_maps;                        // by ascending offset; parallel to `ObjectFile::maps`
    std::unordered_map<std::uint32_t, std::uint32_t> externs;  // symbol index -> index in `ObjectFile::externs`

    ObjectParts(const ElfFile& file, const ObjectFileOptions& wishes, ObjectFile& target)
        : elf{file}, options{wishes}, object{target}, roles(file.sections().size()) {}

    /// The role of a symbol's section; none for undefined, absolute and common symbols.
    [[nodiscard]] SectionRole role_of(const ElfSymbol& symbol) const noexcept {
        return symbol.section < roles.size() ? roles[symbol.section] : SectionRole{};
    }
    /// "section 'xdp' offset 24" and, for code of known functions, what `describe_place` says.
    [[nodiscard]] std::string describe(const ElfSection& section, std::uint64_t offset) const;
    /// The symbol's name, or that of its section.
    [[nodiscard]] std::string_view name_of(const ElfSymbol& symbol) const noexcept;
};

/// Code sections to `instructions`, their symbols to `functions`. Errors: EINVAL, E2BIG.
[[nodiscard]] Result<void> add_code(ObjectParts& parts);

/// Data sections to `data`, their symbols to `globals`. Errors: EINVAL, E2BIG.
[[nodiscard]] Result<void> add_data(ObjectParts& parts);

/// Section `.maps` to `maps`, with the programs that program arrays begin with. After `add_code`.
/// Errors: those of `read_map_definitions`, and EINVAL (bad initialisers).
[[nodiscard]] Result<void> add_maps(ObjectParts& parts);

/// Undefined symbols to `externs`. Errors: EINVAL (undeclared), ENOTSUP (`.kconfig`).
[[nodiscard]] Result<void> add_externs(ObjectParts& parts);

/// Function types to `functions`, source lines to `lines`. After `add_code`. Errors: EINVAL, E2BIG, ENOTSUP (CO-RE).
[[nodiscard]] Result<void> add_lines(ObjectParts& parts, const BtfExt& ext);

/// Relocations of code to `references`, calls patched in `instructions`. After all that adds. Errors: EINVAL.
[[nodiscard]] Result<void> link_code(ObjectParts& parts);

/// Relocations of data to `data_references`. After all that adds. Errors: EINVAL, ENOTSUP (pointers to functions and
/// maps).
[[nodiscard]] Result<void> link_data(ObjectParts& parts);

/// The function of `object` that begins at instruction `insn`, if one does: its index.
[[nodiscard]] std::optional<std::uint32_t> function_beginning_at(const ObjectFile& object, std::uint64_t insn) noexcept;

}  // namespace harena::bpf
