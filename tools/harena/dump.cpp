// SPDX-License-Identifier: Apache-2.0
#include "tools/harena/dump.hpp"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>
#include <utility>
#include <vector>

#include <fmt/format.h>

#include "harena/bpf/disassemble.hpp"
#include "harena/bpf/map.hpp"
#include "harena/bpf/object_file.hpp"
#include "tools/harena/output.hpp"

namespace harena::tool {

namespace {

using bpf::Function;
using bpf::Insn;
using bpf::LineInfo;
using bpf::ObjectFile;
using bpf::Reference;

/// "&count (.bss + 8)", or ".bss + 8" where no variable begins.
std::string name_of_data(const ObjectFile& object, std::uint32_t section, std::uint64_t offset) {
    const std::string place = fmt::format("{} + {}", object.data[section].name, offset);
    const auto global = std::ranges::find_if(object.globals, [&](const bpf::Global& g) {
        return g.section == section && g.offset == offset;
    });
    return global == object.globals.end() ? place : fmt::format("&{} ({})", global->name, place);
}

std::string text_of_reference(const ObjectFile& object, const Reference& reference, Insn insn) {
    const std::uint32_t target = reference.target;
    switch (reference.kind) {
        case Reference::Kind::map:
            return fmt::format("r{} = map {}", +insn.dst, object.maps[target].name);
        case Reference::Kind::data:
            return fmt::format("r{} = {}", +insn.dst, name_of_data(object, target, reference.addend));
        case Reference::Kind::function:
            return fmt::format("r{} = function {}", +insn.dst, object.functions[target].name);
        case Reference::Kind::extern_address:
            return fmt::format("r{} = &{}", +insn.dst, object.externs[target].name);
        case Reference::Kind::extern_call:
            return fmt::format("call {}", object.externs[target].name);
    }
    return {};
}

/// Jumps within a function, other than calls.
bool is_jump(Insn insn) noexcept {
    const bpf::Class cls = bpf::class_of(insn);
    if (cls != bpf::Class::jmp && cls != bpf::Class::jmp32) return false;
    return bpf::jmp_op(insn) != bpf::JmpOp::call && bpf::jmp_op(insn) != bpf::JmpOp::exit;
}

/// The instruction at `index`, with names for what it refers to and the target of a jump, counted from the function's
/// first instruction.
std::string text_of_instruction(const ObjectFile& object, const Function& function, std::uint32_t index) {
    const Insn insn = object.instructions[index];
    if (const Reference* const reference = object.reference_at(index))
        return text_of_reference(object, *reference, insn);
    std::string text = bpf::disassemble(std::span{object.instructions}.subspan(index, function.end - index));
    if (insn.code == bpf::k_code_call && insn.src == std::to_underlying(bpf::CallKind::local)) {
        const std::int64_t target = std::int64_t{index} + 1 + insn.imm;
        const auto callee = std::ranges::find(object.functions, target, &Function::begin);
        return callee == object.functions.end() ? text : fmt::format("call {}", callee->name);
    }
    if (is_jump(insn) && !text.starts_with('('))
        text += fmt::format(" <{}>", std::int64_t{index} - function.begin + 1 + bpf::jump_distance(insn));
    return text;
}

std::uint32_t halves_at(const ObjectFile& object, const Function& function, std::uint32_t index) noexcept {
    return object.instructions[index].code == bpf::k_code_ld_imm64 && index + 1 < function.end ? 2 : 1;
}

/// The record of the source line that begins exactly at `index`.
const LineInfo* line_beginning_at(const ObjectFile& object, std::uint32_t index) {
    const LineInfo* const line = object.line_at(index);
    return line != nullptr && line->insn == index && line->line != 0 ? line : nullptr;
}

// --- Text
// -------------------------------------------------------------------------------------------------------------

std::string_view base_name(std::string_view path) { return path.substr(path.rfind('/') + 1); }

std::size_t widest_name(const auto& things, std::size_t at_least) {
    for (const auto& thing : things) at_least = std::max(at_least, escaped(thing.name).size());
    return std::min<std::size_t>(at_least, 40);
}

void print_maps(const ObjectFile& object) {
    if (object.maps.empty()) return;
    fmt::print("\nmaps\n");
    const std::size_t width = widest_name(object.maps, 8);
    for (const bpf::MapDefinition& map : object.maps) {
        fmt::print("  {:<{}}  {}, ", escaped(map.name), width, bpf::map_type_name(map.type));
        if (map.type == bpf::map_type::arena)
            fmt::print("{} pages at {}", map.max_entries,
                       map.map_extra == 0 ? "any address" : fmt::format("0x{:x}", map.map_extra));
        else
            fmt::print("key {} bytes, value {} bytes, {} entries", map.key_size, map.value_size, map.max_entries);
        fmt::print(", flags 0x{:x}\n", map.flags);
    }
}

void print_globals(const ObjectFile& object) {
    if (object.globals.empty()) return;
    fmt::print("\nglobals\n");
    const std::size_t width = widest_name(object.globals, 8);
    for (const bpf::Global& global : object.globals)
        fmt::print("  {:<{}}  {}, {} bytes at {} + {}\n", escaped(global.name), width,
                   global.type == bpf::k_no_type ? "(no type)" : escaped(object.btf->name_of(global.type)), global.size,
                   escaped(object.data[global.section].name), global.offset);
}

void print_externs(const ObjectFile& object) {
    if (object.externs.empty()) return;
    fmt::print("\nexterns\n");
    const std::size_t width = widest_name(object.externs, 8);
    for (const bpf::Extern& external : object.externs)
        fmt::print("  {:<{}}  {}{}\n", escaped(external.name), width, external.is_function ? "function" : "variable",
                   external.weak ? ", weak" : "");
}

void print_function(const ObjectFile& object, const Function& function) {
    const std::uint32_t count = function.end - function.begin;
    if (function.is_program)
        fmt::print("\nprogram {} ({}{}), section {}, {} instructions\n", escaped(function.name),
                   bpf::name_of(function.type), function.autoload ? "" : ", not loaded unless asked",
                   escaped(function.section), count);
    else
        fmt::print("\n{} function {}, section {}, {} instructions\n", function.is_global ? "global" : "static",
                   escaped(function.name), escaped(function.section), count);
    const LineInfo* shown = nullptr;
    for (std::uint32_t i = function.begin; i < function.end; i += halves_at(object, function, i)) {
        const LineInfo* const line = line_beginning_at(object, i);
        if (line != nullptr && (shown == nullptr || line->line != shown->line || line->file != shown->file)) {
            fmt::print("  ; {}:{}: {}\n", escaped(base_name(line->file)), line->line, escaped(line->text));
            shown = line;
        }
        fmt::print("{:8}: {}\n", i - function.begin, escaped(text_of_instruction(object, function, i)));
    }
}

void print_text(const ObjectFile& object) {
    fmt::print("object {}, license {}\n", escaped(object.name),
               object.license.empty() ? "not given" : escaped(object.license));
    print_maps(object);
    print_globals(object);
    print_externs(object);
    for (const Function& function : object.functions) print_function(object, function);
}

// --- JSON
// -------------------------------------------------------------------------------------------------------------

Json instructions_of(const ObjectFile& object, const Function& function) {
    Json list = Json::array();
    for (std::uint32_t i = function.begin; i < function.end; i += halves_at(object, function, i)) {
        Json entry{{"index", i - function.begin}, {"text", text_of_instruction(object, function, i)}};
        if (const LineInfo* const line = line_beginning_at(object, i)) {
            entry["file"] = line->file;
            entry["line"] = line->line;
            entry["source"] = line->text;
        }
        list.push_back(std::move(entry));
    }
    return list;
}

Json to_json(const ObjectFile& object) {
    Json json{{"file", object.name},       {"license", object.license}, {"maps", Json::array()},
              {"globals", Json::array()},  {"externs", Json::array()},  {"programs", Json::array()},
              {"functions", Json::array()}};
    for (const bpf::MapDefinition& map : object.maps)
        json["maps"].push_back({{"name", map.name},
                                {"type", bpf::map_type_name(map.type)},
                                {"key_size", map.key_size},
                                {"value_size", map.value_size},
                                {"max_entries", map.max_entries},
                                {"flags", map.flags},
                                {"map_extra", map.map_extra}});
    for (const bpf::Global& global : object.globals)
        json["globals"].push_back(
            {{"name", global.name},
             {"section", object.data[global.section].name},
             {"offset", global.offset},
             {"size", global.size},
             {"type", global.type == bpf::k_no_type ? Json{} : Json(object.btf->name_of(global.type))}});
    for (const bpf::Extern& external : object.externs)
        json["externs"].push_back({{"name", external.name},
                                   {"kind", external.is_function ? "function" : "variable"},
                                   {"weak", external.weak}});
    for (const Function& function : object.functions) {
        Json entry{{"name", function.name}, {"section", function.section}};
        if (function.is_program) {
            entry["type"] = bpf::name_of(function.type);
            entry["autoload"] = function.autoload;
        } else {
            entry["global"] = function.is_global;
        }
        entry["instructions"] = instructions_of(object, function);
        json[function.is_program ? "programs" : "functions"].push_back(std::move(entry));
    }
    return json;
}

}  // namespace

int run_dump(const DumpCommand& command) {
    const Result<ObjectFile> object = ObjectFile::read(command.file);
    if (!object) return report(k_bad_input, object.error());
    if (command.json)
        print_json(to_json(*object));
    else
        print_text(*object);
    return k_ran;
}

}  // namespace harena::tool
