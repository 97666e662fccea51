// SPDX-License-Identifier: Apache-2.0
#include "harena/bpf/elf_file.hpp"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <memory>

#include <gelf.h>
#include <libelf.h>

namespace harena::bpf {

namespace {

constexpr std::uint16_t k_machine_bpf = 247;

struct EndElf {
    void operator()(Elf* elf) const noexcept { elf_end(elf); }
};
using ElfHandle = std::unique_ptr<Elf, EndElf>;

/// The `T` at `offset`, which the caller has checked to be inside.
template <typename T>
T load(std::span<const std::byte> bytes, std::uint64_t offset) noexcept {
    T value;
    std::memcpy(&value, bytes.data() + offset, sizeof value);
    return value;
}

/// Refuses early, and precisely, what libelf would either accept (another class or machine) or call "invalid file".
Result<Elf64_Ehdr> check_header(std::span<const std::byte> bytes) {
    if (bytes.size() < SELFMAG || std::memcmp(bytes.data(), ELFMAG, SELFMAG) != 0)
        return fail(EINVAL, "not an ELF file{}", bytes.empty() ? ": it is empty" : "");
    if (bytes.size() < sizeof(Elf64_Ehdr))
        return fail(EINVAL, "truncated: {} bytes, less than an ELF header", bytes.size());
    const auto header = load<Elf64_Ehdr>(bytes, 0);
    if (header.e_ident[EI_CLASS] != ELFCLASS64)
        return fail(EINVAL, "ELF class {} is not 64-bit: compile with -target bpf", header.e_ident[EI_CLASS]);
    if (header.e_ident[EI_DATA] != ELFDATA2LSB)
        return fail(EINVAL, "not little-endian (ELF data encoding {}): compile with -target bpfel",
                    header.e_ident[EI_DATA]);
    if (header.e_ident[EI_VERSION] != EV_CURRENT || header.e_version != EV_CURRENT)
        return fail(EINVAL, "unknown ELF version {}", header.e_version);
    if (header.e_machine != k_machine_bpf)
        return fail(EINVAL, "made for ELF machine {}, not for BPF ({}): compile with -target bpf", header.e_machine,
                    k_machine_bpf);
    if (header.e_type != ET_REL)
        return fail(EINVAL, "ELF type {} is not a relocatable object: compile with -c", header.e_type);
    if (header.e_shnum == 0) return fail(EINVAL, "has no sections");
    if (header.e_shentsize != sizeof(Elf64_Shdr))
        return fail(EINVAL, "section headers of {} bytes instead of {}", header.e_shentsize, sizeof(Elf64_Shdr));
    const std::uint64_t table_bytes = std::uint64_t{header.e_shnum} * sizeof(Elf64_Shdr);
    if (header.e_shoff > bytes.size() || table_bytes > bytes.size() - header.e_shoff)
        return fail(EINVAL, "truncated: {} section headers at offset {} do not fit in {} bytes", header.e_shnum,
                    header.e_shoff, bytes.size());
    if (header.e_shstrndx >= header.e_shnum)
        return fail(EINVAL, "the table of section names is section {}, but there are {}", header.e_shstrndx,
                    header.e_shnum);
    return header;
}

/// The string at `offset` of a string table: terminated, of bounded length, without control characters.
Result<std::string_view> string_at(const ElfSection& table, std::uint64_t offset) {
    if (table.type != SHT_STRTAB) return fail(EINVAL, "section {} is not a string table", table.index);
    if (offset >= table.bytes.size())
        return fail(EINVAL, "name at offset {} is outside string table {} ({} bytes)", offset, table.index,
                    table.bytes.size());
    const std::span<const std::byte> rest = table.bytes.subspan(offset);
    const std::span<const std::byte> window = rest.first(std::min(rest.size(), k_max_name_bytes + 1));
    const auto end = std::ranges::find(window, std::byte{0});
    if (end == window.end())
        return fail(EINVAL, "name at offset {} of string table {} is not terminated within {} bytes", offset,
                    table.index, window.size());
    const std::string_view name{reinterpret_cast<const char*>(window.data()),
                                static_cast<std::size_t>(end - window.begin())};
    const auto is_control = [](char c) { return static_cast<unsigned char>(c) < 0x20 || c == 0x7f; };
    if (std::ranges::any_of(name, is_control))
        return fail(EINVAL, "name at offset {} of string table {} has control characters", offset, table.index);
    return name;
}

Result<ElfSection> to_section(const GElf_Shdr& header, std::uint32_t index, std::span<const std::byte> bytes) {
    ElfSection section{.index = index,
                       .name = {},
                       .type = header.sh_type,
                       .flags = header.sh_flags,
                       .size = header.sh_size,
                       .link = header.sh_link,
                       .info = header.sh_info,
                       .entry_size = header.sh_entsize,
                       .bytes = {}};
    if (header.sh_type == SHT_NULL || header.sh_type == SHT_NOBITS) return section;
    if (header.sh_offset > bytes.size() || header.sh_size > bytes.size() - header.sh_offset)
        return fail(EINVAL, "truncated: section {} ({} bytes at offset {}) does not fit in {} bytes", index,
                    header.sh_size, header.sh_offset, bytes.size());
    section.bytes = bytes.subspan(header.sh_offset, header.sh_size);
    return section;
}

}  // namespace

bool ElfSection::is_code() const noexcept { return type == SHT_PROGBITS && (flags & SHF_EXECINSTR) != 0; }

Result<ElfFile> ElfFile::parse(std::span<const std::byte> bytes) {
    ElfFile file;
    file.file_bytes_ = bytes.size();
    HARENA_CHECK_OK(file.read_sections(bytes));
    HARENA_CHECK_OK(file.read_symbols());
    return file;
}

Result<void> ElfFile::read_sections(std::span<const std::byte> bytes) {
    HARENA_TRY(const Elf64_Ehdr file_header, check_header(bytes));
    static const unsigned version = elf_version(EV_CURRENT);
    if (version == EV_NONE) return fail(ENOTSUP, "this libelf does not know ELF version {}", EV_CURRENT);
    // libelf takes a pointer to non-const, but only writes to files that it opened for writing.
    char* const image = const_cast<char*>(reinterpret_cast<const char*>(bytes.data()));
    const ElfHandle elf{elf_memory(image, bytes.size())};
    if (!elf) return fail(EINVAL, "not readable as ELF: {}", elf_errmsg(-1));
    std::size_t count = 0;
    if (elf_getshdrnum(elf.get(), &count) != 0 || count != file_header.e_shnum)
        return fail(EINVAL, "libelf finds {} sections instead of {}", count, file_header.e_shnum);

    sections_.resize(1);
    for (std::uint32_t index = 1; index < count; ++index) {
        GElf_Shdr header;
        Elf_Scn* const handle = elf_getscn(elf.get(), index);
        if (handle == nullptr || gelf_getshdr(handle, &header) == nullptr)
            return fail(EINVAL, "header of section {}: {}", index, elf_errmsg(-1));
        HARENA_TRY(sections_.emplace_back(), to_section(header, index, bytes));
    }
    for (ElfSection& section : sections_) {
        if (section.index == 0) continue;
        const std::uint64_t header_offset = file_header.e_shoff + section.index * sizeof(Elf64_Shdr);
        const auto header = load<Elf64_Shdr>(bytes, header_offset);
        const Result<std::string_view> name = string_at(sections_[file_header.e_shstrndx], header.sh_name);
        if (!name) return pass_on(name.error().in(fmt::format("section {}", section.index)));
        section.name = *name;
        if (section.type == SHT_REL || section.type == SHT_RELA) {
            const auto [first, inserted] = relocation_sections_.emplace(section.info, section.index);
            if (!inserted)
                return fail(EINVAL, "sections {} and {} both relocate section {}", first->second, section.index,
                            section.info);
        }
        if (section.type != SHT_SYMTAB) continue;
        if (symbol_table_ != 0)
            return fail(EINVAL, "two symbol tables, sections {} and {}", symbol_table_, section.index);
        symbol_table_ = section.index;
    }
    return {};
}

Result<void> ElfFile::read_symbols() {
    if (symbol_table_ == 0) return fail(EINVAL, "has no symbol table (was it stripped?)");
    const ElfSection& table = sections_[symbol_table_];
    if (table.entry_size != sizeof(Elf64_Sym) || table.bytes.size() % sizeof(Elf64_Sym) != 0)
        return fail(EINVAL, "section '{}': {} bytes in entries of {} is no table of symbols of {} bytes", table.name,
                    table.bytes.size(), table.entry_size, sizeof(Elf64_Sym));
    if (table.link >= sections_.size())
        return fail(EINVAL, "section '{}': its names are in section {}, but there are {}", table.name, table.link,
                    sections_.size());
    const std::uint64_t count = table.bytes.size() / sizeof(Elf64_Sym);
    if (count > UINT32_MAX) return fail(EINVAL, "section '{}': {} symbols are too many", table.name, count);
    symbols_.reserve(count);
    for (std::uint32_t index = 0; index < count; ++index) {
        Result<ElfSymbol> symbol = read_symbol(table, index);
        if (!symbol) {
            const std::uint64_t offset = index * sizeof(Elf64_Sym);
            return pass_on(symbol.error().in(fmt::format("section '{}' offset {}", table.name, offset)));
        }
        symbols_.push_back(*symbol);
    }
    return {};
}

Result<ElfSymbol> ElfFile::read_symbol(const ElfSection& table, std::uint32_t index) const {
    const auto raw = load<Elf64_Sym>(table.bytes, index * sizeof(Elf64_Sym));
    ElfSymbol symbol{.index = index,
                     .name = {},
                     .value = raw.st_value,
                     .size = raw.st_size,
                     .section = raw.st_shndx,
                     .type = static_cast<std::uint8_t>(ELF64_ST_TYPE(raw.st_info)),
                     .binding = static_cast<std::uint8_t>(ELF64_ST_BIND(raw.st_info)),
                     .visibility = static_cast<std::uint8_t>(ELF64_ST_VISIBILITY(raw.st_other))};
    if (index == 0) return ElfSymbol{};
    HARENA_TRY(symbol.name, string_at(sections_[table.link], raw.st_name));
    const bool special = raw.st_shndx == SHN_ABS || raw.st_shndx == SHN_COMMON;
    if (!special && raw.st_shndx >= sections_.size())
        return fail(EINVAL, "symbol '{}' is in section {}, but there are {}", symbol.name, raw.st_shndx,
                    sections_.size());
    return symbol;
}

Result<const ElfSection*> ElfFile::find_section(std::string_view name) const {
    const ElfSection* found = nullptr;
    for (const ElfSection& section : sections_) {
        if (section.type == SHT_NULL || section.name != name) continue;
        if (found != nullptr)
            return fail(EINVAL, "sections {} and {} are both named '{}'", found->index, section.index, name);
        found = &section;
    }
    return found;
}

Result<std::vector<ElfRelocation>> ElfFile::relocations_of(const ElfSection& section) const {
    std::vector<ElfRelocation> relocations;
    const auto found = relocation_sections_.find(section.index);
    if (found == relocation_sections_.end()) return relocations;
    const ElfSection& table = sections_[found->second];
    if (table.bytes.empty()) return relocations;
    if (table.type == SHT_RELA)
        return fail(ENOTSUP, "section '{}': relocations with addends (SHT_RELA) are not used by BPF objects",
                    table.name);
    if (table.entry_size != sizeof(Elf64_Rel) || table.bytes.size() % sizeof(Elf64_Rel) != 0)
        return fail(EINVAL, "section '{}': {} bytes in entries of {} is no table of relocations of {} bytes",
                    table.name, table.bytes.size(), table.entry_size, sizeof(Elf64_Rel));
    if (table.link != symbol_table_)
        return fail(EINVAL, "section '{}': its symbols are in section {}, not in the symbol table", table.name,
                    table.link);
    // Each patches 8 bytes of its own. Checked before anything is allocated: many sections may share one large table.
    const std::uint64_t count = table.bytes.size() / sizeof(Elf64_Rel);
    if (count > section.size / 8)
        return fail(EINVAL, "section '{}': {} relocations of section '{}', which has {} bytes", table.name, count,
                    section.name, section.size);
    relocations.reserve(count);
    for (std::uint64_t at = 0; at < table.bytes.size(); at += sizeof(Elf64_Rel)) {
        const auto raw = load<Elf64_Rel>(table.bytes, at);
        const auto symbol = static_cast<std::uint32_t>(ELF64_R_SYM(raw.r_info));
        if (symbol >= symbols_.size())
            return fail(EINVAL, "section '{}' offset {}: symbol {}, but there are {}", table.name, at, symbol,
                        symbols_.size());
        if (raw.r_offset > section.size - 8)
            return fail(EINVAL, "section '{}' offset {}: patches offset {} of section '{}' ({} bytes)", table.name, at,
                        raw.r_offset, section.name, section.size);
        relocations.push_back(
            {.offset = raw.r_offset, .symbol = symbol, .type = static_cast<std::uint32_t>(ELF64_R_TYPE(raw.r_info))});
    }
    return relocations;
}

}  // namespace harena::bpf
