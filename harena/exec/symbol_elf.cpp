// SPDX-License-Identifier: Apache-2.0
#include "harena/exec/symbol_elf.hpp"

#include <elf.h>

#include <array>
#include <cstring>

namespace harena {

namespace {

// Names of the sections, and where in that text each begins.
constexpr std::string_view k_section_names{"\0.text\0.symtab\0.strtab\0.shstrtab\0", 33};
constexpr Elf64_Word k_text_name = 1;
constexpr Elf64_Word k_symtab_name = 7;
constexpr Elf64_Word k_strtab_name = 15;
constexpr Elf64_Word k_shstrtab_name = 23;

enum Section : std::uint16_t { null, text, symtab, strtab, shstrtab, count };

}  // namespace

std::vector<char> symbol_elf(std::uint64_t address, std::uint64_t bytes, std::string_view name) {
    std::array<Elf64_Shdr, Section::count> sections{};
    std::array<Elf64_Sym, 2> symbols{};
    const std::size_t symbols_at = sizeof(Elf64_Ehdr) + sizeof sections;
    const std::size_t names_at = symbols_at + sizeof symbols;
    const std::size_t names_bytes = 1 + name.size() + 1;
    const std::size_t section_names_at = names_at + names_bytes;

    Elf64_Ehdr header{};
    std::memcpy(header.e_ident, ELFMAG, SELFMAG);
    header.e_ident[EI_CLASS] = ELFCLASS64;
    header.e_ident[EI_DATA] = ELFDATA2LSB;
    header.e_ident[EI_VERSION] = EV_CURRENT;
    header.e_type = ET_REL;
    header.e_machine = EM_X86_64;
    header.e_version = EV_CURRENT;
    header.e_shoff = sizeof header;
    header.e_ehsize = sizeof header;
    header.e_shentsize = sizeof(Elf64_Shdr);
    header.e_shnum = Section::count;
    header.e_shstrndx = Section::shstrtab;

    sections[Section::text] = {.sh_name = k_text_name,
                               .sh_type = SHT_NOBITS,
                               .sh_flags = SHF_ALLOC | SHF_EXECINSTR,
                               .sh_addr = address,
                               .sh_offset = 0,
                               .sh_size = bytes,
                               .sh_link = 0,
                               .sh_info = 0,
                               .sh_addralign = 1,
                               .sh_entsize = 0};
    sections[Section::symtab] = {.sh_name = k_symtab_name,
                                 .sh_type = SHT_SYMTAB,
                                 .sh_flags = 0,
                                 .sh_addr = 0,
                                 .sh_offset = symbols_at,
                                 .sh_size = sizeof symbols,
                                 .sh_link = Section::strtab,
                                 .sh_info = 1,  // the first symbol that is not local
                                 .sh_addralign = 8,
                                 .sh_entsize = sizeof(Elf64_Sym)};
    const auto strings = [](Elf64_Word section_name, std::size_t at, std::size_t size) {
        Elf64_Shdr section{};
        section.sh_name = section_name;
        section.sh_type = SHT_STRTAB;
        section.sh_offset = at;
        section.sh_size = size;
        section.sh_addralign = 1;
        return section;
    };
    sections[Section::strtab] = strings(k_strtab_name, names_at, names_bytes);
    sections[Section::shstrtab] = strings(k_shstrtab_name, section_names_at, k_section_names.size());
    symbols[1] = {.st_name = 1,
                  .st_info = ELF64_ST_INFO(STB_GLOBAL, STT_FUNC),
                  .st_other = STV_DEFAULT,
                  .st_shndx = Section::text,
                  .st_value = 0,  // from the section's begin
                  .st_size = bytes};

    std::vector<char> file(section_names_at + k_section_names.size());
    std::memcpy(file.data(), &header, sizeof header);
    std::memcpy(file.data() + sizeof header, sections.data(), sizeof sections);
    std::memcpy(file.data() + symbols_at, symbols.data(), sizeof symbols);
    std::memcpy(file.data() + names_at + 1, name.data(), name.size());
    std::memcpy(file.data() + section_names_at, k_section_names.data(), k_section_names.size());
    return file;
}

}  // namespace harena
