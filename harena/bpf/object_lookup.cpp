// SPDX-License-Identifier: Apache-2.0
#include <elf.h>

#include <algorithm>

#include "harena/bpf/object_file.hpp"
#include "harena/bpf/object_parts.hpp"

namespace harena::bpf {

const Function* ObjectFile::function_at(std::uint32_t insn) const noexcept {
    const auto after = std::ranges::upper_bound(functions, insn, {}, &Function::begin);
    if (after == functions.begin()) return nullptr;
    const Function& function = *std::prev(after);
    return insn < function.end ? &function : nullptr;
}

const Function* ObjectFile::find_function(std::string_view function_name) const noexcept {
    const auto found = std::ranges::find(functions, function_name, &Function::name);
    return found == functions.end() ? nullptr : &*found;
}

const Global* ObjectFile::find_global(std::string_view global_name) const noexcept {
    const auto found = std::ranges::find(globals, global_name, &Global::name);
    return found == globals.end() ? nullptr : &*found;
}

const LineInfo* ObjectFile::line_at(std::uint32_t insn) const noexcept {
    const Function* const function = function_at(insn);
    const auto after = std::ranges::upper_bound(lines, insn, {}, &LineInfo::insn);
    if (function == nullptr || after == lines.begin()) return nullptr;
    const LineInfo& line = *std::prev(after);
    return line.insn >= function->begin ? &line : nullptr;
}

const Reference* ObjectFile::reference_at(std::uint32_t insn) const noexcept {
    const auto found = std::ranges::lower_bound(references, insn, {}, &Reference::insn);
    return found != references.end() && found->insn == insn ? &*found : nullptr;
}

std::string ObjectFile::describe_place(std::uint32_t insn) const {
    const Function* const function = function_at(insn);
    if (function == nullptr) return fmt::format("instruction {}", insn);
    std::string place = fmt::format("{} '{}' instruction {}", function->is_program ? "program" : "function",
                                    function->name, insn - function->begin);
    const LineInfo* const line = line_at(insn);
    if (line == nullptr || line->line == 0) return place;
    const std::string_view file = std::string_view{line->file}.substr(line->file.rfind('/') + 1);
    place += fmt::format(" ({}:{}", file, line->line);
    if (!line->text.empty()) place += fmt::format(": {}", line->text);
    return place + ")";
}

std::optional<std::uint32_t> function_beginning_at(const ObjectFile& object, std::uint64_t insn) noexcept {
    const auto found = std::ranges::lower_bound(object.functions, insn, {}, &Function::begin);
    if (found == object.functions.end() || found->begin != insn) return std::nullopt;
    return static_cast<std::uint32_t>(found - object.functions.begin());
}

std::string ObjectParts::describe(const ElfSection& section, std::uint64_t offset) const {
    std::string place = fmt::format("section '{}' offset {}", section.name, offset);
    if (roles[section.index].kind != SectionRole::Kind::code || offset >= section.size) return place;
    const auto insn = static_cast<std::uint32_t>(roles[section.index].base + offset / sizeof(Insn));
    return fmt::format("{}, {}", place, object.describe_place(insn));
}

std::string_view ObjectParts::name_of(const ElfSymbol& symbol) const noexcept {
    if (!symbol.name.empty() || symbol.section >= elf.sections().size()) return symbol.name;
    return elf.sections()[symbol.section].name;
}

}  // namespace harena::bpf
