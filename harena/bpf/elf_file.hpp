// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "harena/base/result.hpp"

namespace harena::bpf {

/// A section of an ELF file.
struct ElfSection {
    std::uint32_t index = 0;
    std::string_view name;
    std::uint32_t type = 0;   // SHT_*
    std::uint64_t flags = 0;  // SHF_*
    std::uint64_t size = 0;   // in memory
    std::uint32_t link = 0;
    std::uint32_t info = 0;
    std::uint64_t entry_size = 0;
    std::span<const std::byte> bytes;  // in the file; none for SHT_NOBITS

    /// Holds instructions.
    [[nodiscard]] bool is_code() const noexcept;
};

/// A symbol; `section` is 0 for an undefined one.
struct ElfSymbol {
    std::uint32_t index = 0;
    std::string_view name;  // empty for section symbols
    std::uint64_t value = 0;
    std::uint64_t size = 0;
    std::uint32_t section = 0;    // index, or SHN_ABS, SHN_COMMON
    std::uint8_t type = 0;        // STT_*
    std::uint8_t binding = 0;     // STB_*
    std::uint8_t visibility = 0;  // STV_*
};

/// A relocation of the 8 (or 16) bytes at `offset` of a section, without an explicit addend.
struct ElfRelocation {
    std::uint64_t offset = 0;
    std::uint32_t symbol = 0;  // a valid index
    std::uint32_t type = 0;    // R_BPF_*
};

/// Relocation types of BPF (RFC 9669 has none; LLVM defines them).
inline constexpr std::uint32_t k_reloc_none = 0;
inline constexpr std::uint32_t k_reloc_64_64 = 1;     // ld_imm64
inline constexpr std::uint32_t k_reloc_abs64 = 2;     // 8 bytes of data
inline constexpr std::uint32_t k_reloc_abs32 = 3;     // 4 bytes of data
inline constexpr std::uint32_t k_reloc_nodyld32 = 4;  // 4 bytes of data that nobody at run time needs
inline constexpr std::uint32_t k_reloc_64_32 = 10;    // call

/// Names longer than this are refused (kernel: KSYM_NAME_LEN is 512). Bounds the memory that copies of names can take.
inline constexpr std::size_t k_max_name_bytes = 511;

/// The frame of a relocatable BPF object: sections, symbols, relocations. Every offset, size and index is checked.
///
/// Refers to the bytes it was made from, which must outlive it. Immutable.
class ElfFile {
public:
    /// Reads an ELF64 little-endian ET_REL file for EM_BPF. Errors: EINVAL, naming section and offset. Thread-safe.
    [[nodiscard]] static Result<ElfFile> parse(std::span<const std::byte> bytes);

    [[nodiscard]] std::uint64_t file_bytes() const noexcept { return file_bytes_; }
    /// Section `i` has index `i`; the first one is null.
    [[nodiscard]] const std::vector<ElfSection>& sections() const noexcept { return sections_; }
    /// Symbol `i` has index `i`; the first one is null.
    [[nodiscard]] const std::vector<ElfSymbol>& symbols() const noexcept { return symbols_; }

    /// The section of that name with contents or size, or nullptr. Errors: EINVAL if there are two.
    [[nodiscard]] Result<const ElfSection*> find_section(std::string_view name) const;

    /// What has to be patched in `section`, in the file's order: 8 bytes inside it each. Errors: EINVAL (an offset
    /// outside the section, a bad symbol index), ENOTSUP (relocations with explicit addends).
    [[nodiscard]] Result<std::vector<ElfRelocation>> relocations_of(const ElfSection& section) const;

private:
    ElfFile() = default;
    [[nodiscard]] Result<void> read_sections(std::span<const std::byte> bytes);
    [[nodiscard]] Result<void> read_symbols();
    [[nodiscard]] Result<ElfSymbol> read_symbol(const ElfSection& table, std::uint32_t index) const;

    std::uint64_t file_bytes_ = 0;
    std::vector<ElfSection> sections_;
    std::vector<ElfSymbol> symbols_;
    std::uint32_t symbol_table_ = 0;                                        // section index; 0: none
    std::unordered_map<std::uint32_t, std::uint32_t> relocation_sections_;  // of the section with that index
};

}  // namespace harena::bpf
