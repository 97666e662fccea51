// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cerrno>
#include <map>
#include <string_view>
#include <utility>

#include <bpf/btf.h>

#include "harena/base/page_math.hpp"
#include "harena/bpf/object_parts.hpp"
#include "harena/bpf/printable.hpp"

namespace harena::bpf {

namespace {

/// Source lines are cut after this many bytes: they are for messages.
constexpr std::size_t k_max_text_bytes = 240;
/// Of all copies of lines and file names: many records can refer to the same long string.
constexpr std::size_t k_max_total_bytes = 256 * k_mib;

using CodeSections = std::unordered_map<std::string_view, const ElfSection*>;

CodeSections code_sections(const ObjectParts& parts) {
    CodeSections sections;
    for (const ElfSection& section : parts.elf.sections())
        if (parts.roles[section.index].kind == SectionRole::Kind::code) sections.emplace(section.name, &section);
    return sections;
}

/// The section that records are about, and that they are about instructions in it.
template <typename Record>
Result<const ElfSection*> section_of(const CodeSections& sections, const BtfExtSection<Record>& info) {
    const auto found = sections.find(info.section);
    if (found == sections.end()) return fail(EINVAL, "has records of section '{}', which has no code", info.section);
    const ElfSection& section = *found->second;
    for (const Record& record : info.records)
        if (record.insn_offset >= section.size || record.insn_offset % sizeof(Insn) != 0)
            return fail(EINVAL, "has a record of section '{}' offset {}, where no instruction is ({} bytes)",
                        section.name, record.insn_offset, section.size);
    return &section;
}

Result<void> add_function_types(ObjectParts& parts, const CodeSections& sections, const BtfExt& ext) {
    for (const auto& info : ext.functions) {
        HARENA_TRY(const ElfSection* const section, section_of(sections, info));
        for (const BtfFuncInfo& record : info.records) {
            const std::uint64_t insn = parts.roles[section->index].base + record.insn_offset / sizeof(Insn);
            const auto function = function_beginning_at(parts.object, insn);
            if (!function)
                return fail(EINVAL, "has a function type for section '{}' offset {}, where no function begins",
                            section->name, record.insn_offset);
            const btf_type* const type = parts.object.btf->type(record.type);
            if (type == nullptr || !btf_is_func(type))
                return fail(EINVAL, "says that function '{}' has type {}, which is no function",
                            parts.object.functions[*function].name, record.type);
            parts.object.functions[*function].btf_func = record.type;
        }
    }
    return {};
}

Result<void> add_source_lines(ObjectParts& parts, const CodeSections& sections, const BtfExt& ext) {
    const Btf& btf = *parts.object.btf;
    // One line an instruction: of several records, the last in the file is the most precise.
    std::map<std::uint32_t, LineInfo> lines;
    std::size_t total = 0;
    for (const auto& info : ext.lines) {
        HARENA_TRY(const ElfSection* const section, section_of(sections, info));
        for (const BtfLineInfo& record : info.records) {
            std::string_view text = btf.string(record.text);
            text.remove_prefix(std::min(text.find_first_not_of(" \t"), text.size()));
            const std::string_view file = btf.string(record.file);
            text = text.substr(0, k_max_text_bytes);
            total += text.size() + file.size();
            if (total > k_max_total_bytes)
                return fail(E2BIG, "has more than {} bytes of source lines", k_max_total_bytes);
            const auto insn =
                static_cast<std::uint32_t>(parts.roles[section->index].base + record.insn_offset / sizeof(Insn));
            lines.insert_or_assign(insn, LineInfo{.insn = insn,
                                                  .line = record.line,
                                                  .column = record.column,
                                                  .file = printable(file),
                                                  .text = printable(text)});
        }
    }
    parts.object.lines.reserve(lines.size());
    for (auto& [insn, line] : lines) parts.object.lines.push_back(std::move(line));
    return {};
}

Result<void> refuse_core(const ObjectParts& parts, const CodeSections& sections, const BtfExt& ext) {
    if (!ext.first_core_relocation) return {};
    const auto& [name, offset] = *ext.first_core_relocation;
    const auto section = sections.find(name);
    if (section == sections.end()) return fail(EINVAL, "has records of section '{}', which has no code", name);
    return fail(ENOTSUP, "{}: needs a CO-RE relocation (preserve_access_index or BPF_CORE_READ), not built yet",
                parts.describe(*section->second, offset));
}

}  // namespace

Result<void> add_lines(ObjectParts& parts, const BtfExt& ext) {
    const CodeSections sections = code_sections(parts);
    HARENA_CHECK_OK(add_function_types(parts, sections, ext));
    HARENA_CHECK_OK(add_source_lines(parts, sections, ext));
    return refuse_core(parts, sections, ext);
}

}  // namespace harena::bpf
