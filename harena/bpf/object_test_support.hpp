// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <string>
#include <string_view>

#include <bpf/btf.h>

#include "harena/bpf/object_file.hpp"

/// What tests and fuzz targets demand of every object that was parsed.
namespace harena::bpf::test {

inline bool is_one_line(std::string_view text) noexcept {
    return std::ranges::none_of(text, [](char c) { return static_cast<unsigned char>(c) < 0x20 || c == 0x7f; });
}

/// Checks the promises of object_file.hpp.
class InvariantChecker {
public:
    explicit InvariantChecker(const ObjectFile& object) noexcept : object_{object} {}

    /// The first promise that is broken; empty if none is.
    [[nodiscard]] std::string broken() {
        check_functions();
        check_maps();
        check_data();
        check_references();
        check_calls();
        check_lines();
        check_types();
        return broken_;
    }

private:
    void demand(bool holds, std::string_view promise, std::uint64_t at = 0) {
        if (!holds && broken_.empty()) broken_ = fmt::format("{} ({})", promise, at);
    }

    void check_functions() {
        demand(!object_.instructions.empty() && object_.instructions.size() <= 1'000'000, "number of instructions");
        std::uint32_t covered = 0;
        for (const Function& function : object_.functions) {
            demand(function.begin == covered && function.begin < function.end, "functions follow each other", covered);
            demand(!function.name.empty() && is_one_line(function.name), "names of functions", covered);
            demand(!function.section.empty() || !function.is_program, "programs have a section", covered);
            demand(function.type == ProgramType::unspecified || function.is_program, "types of programs", covered);
            demand(object_.function_at(function.begin) == &function, "first instruction is in its function", covered);
            demand(object_.function_at(function.end - 1) == &function, "last instruction is in its function", covered);
            const btf_type* const type = object_.btf->type(function.btf_func);
            demand(function.btf_func == k_no_type || (type != nullptr && btf_is_func(type)), "BTF of functions",
                   covered);
            covered = function.end;
        }
        demand(covered == object_.instructions.size(), "functions cover all instructions", covered);
        demand(object_.function_at(covered) == nullptr && object_.line_at(covered) == nullptr, "end is no function");
    }

    void check_maps() {
        for (const MapDefinition& map : object_.maps) {
            demand(!map.name.empty() && is_one_line(map.name) && map.type != 0, "maps have name and type");
            demand(is_type(map.key_type) && is_type(map.value_type), "types of maps");
            std::uint64_t next = 0;
            for (const InitialProgram& program : map.initial_programs) {
                demand(program.index >= next && program.index < map.max_entries, "initial programs", program.index);
                const Function* const function = object_.find_function(program.function);
                demand(function != nullptr, "initial programs exist", program.index);
                next = std::uint64_t{program.index} + 1;
            }
        }
    }

    void check_data() {
        for (const DataSection& data : object_.data)
            demand(!data.name.empty() && !data.initial.empty(), "data sections");
        for (const Global& global : object_.globals) {
            demand(is_one_line(global.name) && is_type(global.type), "globals");
            demand(global.section < object_.data.size() && fits(global.section, global.offset, global.size),
                   "globals are inside their section", global.offset);
        }
        const DataReference* last = nullptr;
        for (const DataReference& reference : object_.data_references) {
            demand(reference.section < object_.data.size() && fits(reference.section, reference.offset, 8),
                   "pointers are inside their section", reference.offset);
            demand(reference.target < object_.data.size() && fits(reference.target, reference.addend, 0),
                   "pointers point into a section", reference.offset);
            demand(last == nullptr || last->section < reference.section ||
                       (last->section == reference.section && reference.offset - last->offset >= 8),
                   "pointers are in order and apart", reference.offset);
            last = &reference;
        }
        for (const Extern& symbol : object_.externs)
            demand(!symbol.name.empty() && is_one_line(symbol.name) && is_type(symbol.type), "externs");
    }

    void check_references() {
        std::uint64_t next = 0;
        for (const Reference& reference : object_.references) {
            demand(reference.insn >= next && reference.insn < object_.instructions.size(), "references are in order",
                   reference.insn);
            if (!broken_.empty()) return;
            demand(object_.reference_at(reference.insn) == &reference, "references are found", reference.insn);
            next = std::uint64_t{reference.insn} + 1;
            check_reference(reference);
        }
    }

    void check_reference(const Reference& reference) {
        const Insn insn = object_.instructions[reference.insn];
        std::size_t targets = 0;
        switch (reference.kind) {
            case Reference::Kind::map:
                targets = object_.maps.size();
                break;
            case Reference::Kind::data:
                targets = object_.data.size();
                break;
            case Reference::Kind::function:
                targets = object_.functions.size();
                break;
            case Reference::Kind::extern_address:
            case Reference::Kind::extern_call:
                targets = object_.externs.size();
                break;
        }
        demand(reference.target < targets, "references have a target", reference.insn);
        if (reference.kind == Reference::Kind::extern_call) {
            demand(insn.code == k_code_call && insn.src == 2, "references of calls", reference.insn);
            return;
        }
        const Function* const function = object_.function_at(reference.insn);
        demand(insn.code == k_code_ld_imm64 && function != nullptr && reference.insn + 1 < function->end,
               "references of loads", reference.insn);
        if (reference.kind == Reference::Kind::data) {
            demand(fits(reference.target, reference.addend, 0), "loads point into a section", reference.insn);
        } else {
            demand(reference.addend == 0, "only data has addends", reference.insn);
        }
        demand((insn.src == 4) == (reference.kind == Reference::Kind::function), "src of loads", reference.insn);
    }

    void check_calls() {
        for (std::size_t i = 0; i < object_.instructions.size(); ++i) {
            const Insn insn = object_.instructions[i];
            if (insn.code == k_code_ld_imm64) {
                ++i;
            } else if (insn.code == k_code_call && insn.src == 1) {
                const std::int64_t target = static_cast<std::int64_t>(i) + 1 + insn.imm;
                const Function* const callee = target < 0 || target > UINT32_MAX
                                                   ? nullptr
                                                   : object_.function_at(static_cast<std::uint32_t>(target));
                demand(callee != nullptr && callee->begin == target, "calls go to functions", i);
            }
        }
    }

    void check_lines() {
        std::uint64_t next = 0;
        for (const LineInfo& line : object_.lines) {
            demand(line.insn >= next && line.insn < object_.instructions.size(), "lines are in order", line.insn);
            demand(is_one_line(line.file) && is_one_line(line.text), "lines are lines", line.insn);
            next = std::uint64_t{line.insn} + 1;
        }
        for (std::uint32_t insn = 0; insn <= object_.instructions.size(); ++insn) {
            const std::string place = object_.describe_place(insn);
            demand(!place.empty() && is_one_line(place), "places can be described", insn);
        }
    }

    void check_types() {
        demand(is_one_line(object_.license) && object_.license.size() < 128, "license");
        for (TypeId id = 0; id <= object_.btf->type_count(); ++id) {
            demand(!object_.btf->name_of(id).empty(), "types have names", id);
            const Result<std::uint64_t> size = object_.btf->size_of(id);
            demand(size.has_value() || !size.error().message().empty(), "types have sizes, or a reason", id);
        }
    }

    [[nodiscard]] bool is_type(TypeId type) const { return type < object_.btf->type_count(); }
    [[nodiscard]] bool fits(std::uint32_t section, std::uint64_t offset, std::uint64_t size) const {
        const std::uint64_t bytes = object_.data[section].initial.size();
        return offset <= bytes && size <= bytes - offset;
    }

    const ObjectFile& object_;
    std::string broken_;
};

/// What is wrong with the outcome of a parse: a broken promise, or an error that does not say anything on one line.
inline std::string complaint_about(const Result<ObjectFile>& object) {
    if (object) return InvariantChecker{*object}.broken();
    const std::string& message = object.error().message();
    if (message.empty() || object.error().code() <= 0) return "an error without message or code";
    return is_one_line(message) ? std::string{} : "an error of several lines: " + message;
}

}  // namespace harena::bpf::test
