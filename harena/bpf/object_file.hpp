// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "harena/base/result.hpp"
#include "harena/bpf/btf.hpp"
#include "harena/bpf/insn.hpp"

namespace harena::bpf {

/// What a program is attached to, from the prefix of its section name.
enum class ProgramType : std::uint8_t { unspecified, syscall, xdp, tc, socket };

[[nodiscard]] std::string_view name_of(ProgramType type) noexcept;

/// A range of `ObjectFile::instructions` that control enters only at its first instruction.
struct Function {
    std::string name;
    std::string section;
    std::uint32_t begin = 0;  // instruction index
    std::uint32_t end = 0;
    bool is_program = false;  // stands in a section of a program, with global linkage
    bool is_global = false;   // linkage, of subprograms: arguments and results are scalars (ENGINE: kinds of value)
    bool autoload = true;     // false: the section name starts with '?'
    ProgramType type = ProgramType::unspecified;
    TypeId btf_func = k_no_type;  // BTF FUNC
};

/// A program that a program array holds from the start.
struct InitialProgram {
    std::uint32_t index = 0;  // below the map's max_entries
    std::string function;
};

/// A map of section `.maps`.
struct MapDefinition {
    std::string name;
    std::uint32_t type = 0;  // BPF_MAP_TYPE_*
    std::uint32_t key_size = 0;
    std::uint32_t value_size = 0;
    std::uint32_t max_entries = 0;
    std::uint32_t flags = 0;
    std::uint64_t map_extra = 0;
    TypeId key_type = k_no_type;
    TypeId value_type = k_no_type;
    bool pin_by_name = false;                        // LIBBPF_PIN_BY_NAME
    std::vector<InitialProgram> initial_programs{};  // of a program array, by ascending index
};

/// Global variables that share memory.
struct DataSection {
    enum class Kind : std::uint8_t { data, bss, rodata, arena };
    std::string name;  // ".data", ".rodata.str1.1", ".addr_space.1", …
    Kind kind = Kind::data;
    std::vector<std::byte> initial;  // size of the section; zeros for .bss
};

/// A named variable in a data section.
struct Global {
    std::string name;
    std::uint32_t section = 0;  // index in `ObjectFile::data`
    std::uint64_t offset = 0;
    std::uint64_t size = 0;
    TypeId type = k_no_type;  // of the variable; k_no_type for one without BTF
};

/// A kernel function or variable that the object expects from its engine (`__ksym`).
struct Extern {
    std::string name;
    bool weak = false;
    bool is_function = false;
    TypeId type = k_no_type;  // BTF FUNC or VAR
};

/// What the instruction at `insn` refers to: filled in by the engine when the object is loaded.
struct Reference {
    enum class Kind : std::uint8_t {
        map,             // ld_imm64 of maps[target]
        data,            // ld_imm64 of data[target] + addend
        function,        // ld_imm64 of functions[target] (a callback's address)
        extern_address,  // ld_imm64 of externs[target]
        extern_call,     // call of externs[target]
    };
    std::uint32_t insn = 0;
    Kind kind = Kind::map;
    std::uint32_t target = 0;
    std::uint64_t addend = 0;
};

/// A pointer in an initialised global: 8 bytes at `offset` of data[section] hold the address of data[target] + addend.
struct DataReference {
    std::uint32_t section = 0;
    std::uint64_t offset = 0;
    std::uint32_t target = 0;
    std::uint64_t addend = 0;
};

/// Where an instruction comes from; holds up to the next record's instruction within its function.
struct LineInfo {
    std::uint32_t insn = 0;
    std::uint32_t line = 0;
    std::uint32_t column = 0;
    std::string file;
    std::string text;  // the source line, leading blanks removed
};

struct ObjectFileOptions {
    /// Functions of `?` sections to treat as wanted; the name of the program.
    std::vector<std::string> also_load;
};

/// A BPF object as it stands in its file, checked and linked: all code sections in one array of instructions, calls
/// between them resolved, everything else listed by name. Immutable.
///
/// Untrusted input: every offset, size, index and string is checked; malformed input of any kind is an `Error` that
/// says which section and offset. The instructions themselves are not checked here (`validate`).
class ObjectFile {
public:
    std::string name;  // of the file, for messages
    std::string license;
    std::vector<Insn> instructions;
    std::vector<Function> functions;  // by ascending `begin`, not overlapping
    std::vector<MapDefinition> maps;
    std::vector<DataSection> data;
    std::vector<Global> globals;
    std::vector<Extern> externs;
    std::vector<Reference> references;  // by ascending `insn`
    std::vector<DataReference> data_references;
    std::vector<LineInfo> lines;  // by ascending `insn`
    std::shared_ptr<const Btf> btf;

    /// Reads a file. Errors: those of the file system, and those of `parse`. Thread-safe.
    [[nodiscard]] static Result<ObjectFile> read(const std::string& path, const ObjectFileOptions& options = {});

    /// Parses an object in memory; `name` stands for it in messages. Errors: EINVAL (malformed, wrong machine, no BTF),
    /// ENOTSUP (well-formed, but needs what harena does not have: named in the message). Thread-safe.
    [[nodiscard]] static Result<ObjectFile> parse(std::span<const std::byte> bytes, std::string name,
                                                  const ObjectFileOptions& options = {});

    /// The function that holds instruction `insn`, or nullptr.
    [[nodiscard]] const Function* function_at(std::uint32_t insn) const noexcept;
    [[nodiscard]] const Function* find_function(std::string_view function_name) const noexcept;
    [[nodiscard]] const Global* find_global(std::string_view global_name) const noexcept;
    /// The line that instruction `insn` comes from, or nullptr if the object does not say.
    [[nodiscard]] const LineInfo* line_at(std::uint32_t insn) const noexcept;
    [[nodiscard]] const Reference* reference_at(std::uint32_t insn) const noexcept;
    /// "program 'count' instruction 12 (word_index.bpf.c:57: n = n->next)", as much of it as is known; for messages.
    [[nodiscard]] std::string describe_place(std::uint32_t insn) const;
};

}  // namespace harena::bpf
