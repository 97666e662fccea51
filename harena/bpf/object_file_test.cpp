// SPDX-License-Identifier: Apache-2.0
#include "harena/bpf/object_file.hpp"

#include <cerrno>
#include <cstring>
#include <span>

#include <gtest/gtest.h>

#include "harena/base/os/file.hpp"
#include "harena/bpf/object_test_support.hpp"

namespace harena::bpf {

namespace {

std::string path_of(std::string_view name) { return fmt::format("{}/{}.bpf.o", HARENA_BPF_TEST_OBJECTS, name); }

ObjectFile read_object(std::string_view name, const ObjectFileOptions& options = {}) {
    Result<ObjectFile> object = ObjectFile::read(path_of(name), options);
    if (!object) {
        ADD_FAILURE() << object.error().message();
        return {};
    }
    EXPECT_EQ(test::complaint_about(object), "");
    return *std::move(object);
}

/// Every variant of a test input must mean the same.
class EveryVariant : public testing::TestWithParam<const char*> {
protected:
    static ObjectFile open(std::string_view source) { return read_object(fmt::format("{}{}", source, GetParam())); }
};
INSTANTIATE_TEST_SUITE_P(ObjectFile, EveryVariant, testing::Values("", "_v1", "_v3", "_o0"),
                         [](const auto& variant) { return *variant.param == 0 ? "_v4" : variant.param; });

template <typename Named>
const Named& find(const std::vector<Named>& all, std::string_view name) {
    static const Named none{};
    const auto found = std::ranges::find(all, name, &Named::name);
    if (found != all.end()) return *found;
    ADD_FAILURE() << "there is no " << name;
    return none;
}

/// What the function calls: names of functions, and of externs.
std::vector<std::string> calls_of(const ObjectFile& object, std::string_view function) {
    std::vector<std::string> names;
    const Function& caller = find(object.functions, function);
    for (std::uint32_t i = caller.begin; i < caller.end; ++i) {
        const Insn insn = object.instructions[i];
        if (insn.code != k_code_call) continue;
        const Reference* const reference = object.reference_at(i);
        if (insn.src == 1) names.push_back(object.function_at(i + 1 + static_cast<std::uint32_t>(insn.imm))->name);
        if (reference != nullptr) names.push_back(object.externs[reference->target].name);
    }
    return names;
}

/// The targets of a function's references of one kind, as "name" or "section+offset", in order, without repetitions.
std::vector<std::string> references_of(const ObjectFile& object, std::string_view function, Reference::Kind kind) {
    std::vector<std::string> targets;
    const Function& from = find(object.functions, function);
    for (const Reference& reference : object.references) {
        if (reference.kind != kind || reference.insn < from.begin || reference.insn >= from.end) continue;
        std::string target;
        switch (kind) {
            case Reference::Kind::map:
                target = object.maps[reference.target].name;
                break;
            case Reference::Kind::function:
                target = object.functions[reference.target].name;
                break;
            case Reference::Kind::extern_address:
            case Reference::Kind::extern_call:
                target = object.externs[reference.target].name;
                break;
            case Reference::Kind::data:
                target = fmt::format("{}+{}", object.data[reference.target].name, reference.addend);
                break;
        }
        if (std::ranges::find(targets, target) == targets.end()) targets.push_back(target);
    }
    return targets;
}

/// The name of the variable that begins at an offset of a data section.
std::string variable_at(const ObjectFile& object, std::uint32_t section, std::uint64_t offset) {
    for (const Global& global : object.globals)
        if (global.section == section && global.offset == offset) return global.name;
    return fmt::format("{}+{}", object.data[section].name, offset);
}

using Names = std::vector<std::string>;

void expect_error(const Result<ObjectFile>& object, int code, std::string_view part) {
    ASSERT_FALSE(object.has_value());
    EXPECT_EQ(test::complaint_about(object), "");
    EXPECT_EQ(object.error().code(), code) << object.error().message();
    EXPECT_NE(object.error().message().find(part), std::string::npos) << object.error().message();
}

std::vector<std::byte> bytes_of(std::string_view name) { return *os::read_file(path_of(name)); }

}  // namespace

TEST_P(EveryVariant, every_function_is_found_with_its_linkage) {
    const ObjectFile object = open("programs");
    EXPECT_EQ(object.license, "Dual BSD/GPL");
    EXPECT_FALSE(find(object.functions, "static_in_text").is_global);
    EXPECT_FALSE(find(object.functions, "hidden_in_text").is_global);
    EXPECT_TRUE(find(object.functions, "global_in_text").is_global);
    for (const char* const name : {"static_in_text", "hidden_in_text", "global_in_text", "static_in_syscall"})
        EXPECT_FALSE(find(object.functions, name).is_program) << name;
    for (const char* const name : {"first", "second", "frags", "optional", "classify", "egress", "filter", "probe"})
        EXPECT_TRUE(find(object.functions, name).is_program) << name;
    for (const Function& function : object.functions)
        EXPECT_EQ(object.btf->identifier_of(function.btf_func), function.name);
}

TEST_P(EveryVariant, section_names_give_program_types) {
    const ObjectFile object = open("programs");
    EXPECT_EQ(find(object.functions, "first").type, ProgramType::syscall);
    EXPECT_EQ(find(object.functions, "second").type, ProgramType::syscall);
    EXPECT_EQ(find(object.functions, "frags").type, ProgramType::xdp);
    EXPECT_EQ(find(object.functions, "optional").type, ProgramType::xdp);
    EXPECT_EQ(find(object.functions, "classify").type, ProgramType::tc);
    EXPECT_EQ(find(object.functions, "egress").type, ProgramType::tc);
    EXPECT_EQ(find(object.functions, "filter").type, ProgramType::socket);
    EXPECT_EQ(find(object.functions, "probe").type, ProgramType::unspecified);
    EXPECT_EQ(find(object.functions, "static_in_syscall").type, ProgramType::unspecified);
}

TEST_P(EveryVariant, calls_reach_their_functions_within_and_across_sections) {
    const ObjectFile object = open("programs");
    EXPECT_EQ(calls_of(object, "first"), (Names{"global_in_text", "static_in_text", "static_in_syscall"}));
    EXPECT_EQ(calls_of(object, "second"), (Names{"static_in_syscall", "hidden_in_text"}));
    EXPECT_EQ(calls_of(object, "hidden_in_text"), (Names{"static_in_text", "static_in_text"}));
    EXPECT_EQ(calls_of(object, "global_in_text"), (Names{"static_in_text"}));
    EXPECT_EQ(calls_of(object, "filter"), (Names{"global_in_text"}));
    EXPECT_EQ(calls_of(object, "egress"), Names{});
}

TEST_P(EveryVariant, map_definitions_have_every_member) {
    const ObjectFile object = open("maps");
    const MapDefinition& arena = find(object.maps, "arena");
    EXPECT_EQ(arena.type, 33U);
    EXPECT_EQ(arena.flags, 1024U);
    EXPECT_EQ(arena.max_entries, 1000U);
    EXPECT_EQ(arena.map_extra, std::uint64_t{1} << 44);
    EXPECT_EQ(arena.key_size + arena.value_size, 0U);
    const MapDefinition& by_type = find(object.maps, "by_type");
    EXPECT_EQ(by_type.key_size, 4U);
    EXPECT_EQ(by_type.value_size, 24U);
    EXPECT_EQ(object.btf->name_of(by_type.key_type), "int");
    EXPECT_EQ(object.btf->name_of(by_type.value_type), "struct value");
    EXPECT_TRUE(by_type.pin_by_name);
    const MapDefinition& by_size = find(object.maps, "by_size");
    EXPECT_EQ(by_size.key_size, 4U);
    EXPECT_EQ(by_size.value_size, 24U);
    EXPECT_EQ(by_size.map_extra, 7U);
    EXPECT_EQ(by_size.key_type, k_no_type);
    EXPECT_FALSE(by_size.pin_by_name);
    EXPECT_EQ(find(object.maps, "hidden").value_size, 8U);
}

TEST_P(EveryVariant, program_arrays_have_their_initial_programs) {
    const ObjectFile object = open("maps");
    const MapDefinition& jumps = find(object.maps, "jumps");
    ASSERT_EQ(jumps.initial_programs.size(), 2U);
    EXPECT_EQ(jumps.initial_programs[0].index, 0U);
    EXPECT_EQ(jumps.initial_programs[0].function, "target_zero");
    EXPECT_EQ(jumps.initial_programs[1].index, 2U);
    EXPECT_EQ(jumps.initial_programs[1].function, "target_two");
    EXPECT_EQ(jumps.value_size, 4U);
}

TEST_P(EveryVariant, loads_of_maps_refer_to_them_static_ones_too) {
    const ObjectFile object = open("maps");
    EXPECT_EQ(references_of(object, "target_two", Reference::Kind::map),
              (Names{"by_type", "hidden", "by_size", "jumps"}));
}

TEST_P(EveryVariant, variables_stand_in_their_sections_with_types_and_initial_values) {
    const ObjectFile object = open("globals");
    const auto section_of = [&](std::string_view name) { return object.data[find(object.globals, name).section].name; };
    EXPECT_EQ(section_of("arena_zero"), ".addr_space.1");
    EXPECT_EQ(section_of("data_static"), ".data");
    EXPECT_EQ(section_of("own_section"), ".data.own");
    EXPECT_EQ(section_of("bss_static"), ".bss");
    EXPECT_EQ(section_of("rodata_static"), ".rodata");
    const auto int_at = [&](std::string_view name) {
        const Global& global = find(object.globals, name);
        std::int32_t value = 0;
        std::memcpy(&value, &object.data[global.section].initial.at(global.offset), sizeof value);
        return value;
    };
    EXPECT_EQ(int_at("data_int"), 5);
    EXPECT_EQ(int_at("data_static"), 7);
    EXPECT_EQ(int_at("rodata_int"), 3);
    EXPECT_EQ(int_at("rodata_static"), 9);
    EXPECT_EQ(int_at("own_section"), 11);
    EXPECT_EQ(int_at("bss_int"), 0);
    const Global& array = find(object.globals, "data_array");
    EXPECT_EQ(array.size, 32U);
    EXPECT_EQ(object.btf->name_of(array.type), "volatile long[4]");
    EXPECT_EQ(object.btf->name_of(find(object.globals, "arena_zero").type), "struct node");
    EXPECT_EQ(object.btf->name_of(find(object.globals, "bss_static").type), "volatile long");
}

TEST_P(EveryVariant, kinds_of_data_sections_follow_from_their_names) {
    const ObjectFile object = open("globals");
    EXPECT_EQ(find(object.data, ".addr_space.1").kind, DataSection::Kind::arena);
    EXPECT_EQ(find(object.data, ".data").kind, DataSection::Kind::data);
    EXPECT_EQ(find(object.data, ".data.own").kind, DataSection::Kind::data);
    EXPECT_EQ(find(object.data, ".rodata").kind, DataSection::Kind::rodata);
    EXPECT_EQ(find(object.data, ".rodata.str1.1").kind, DataSection::Kind::rodata);
    EXPECT_EQ(find(object.data, ".bss").kind, DataSection::Kind::bss);
}

TEST_P(EveryVariant, loads_of_variables_refer_to_their_places) {
    const ObjectFile object = open("globals");
    const Names places = references_of(object, "touch_all", Reference::Kind::data);
    for (const char* const name : {"arena_zero", "arena_head", "bss_static", "data_array", "data_static", "rodata_int",
                                   "rodata_static", "own_section", "bss_int", "data_pointer", "text"}) {
        const Global& global = find(object.globals, name);
        // clang loads arrays by their element's address, or by their own.
        const std::string first = fmt::format("{}+{}", object.data[global.section].name, global.offset);
        const std::string fourth = fmt::format("{}+{}", object.data[global.section].name, global.offset + 24);
        const bool found = std::ranges::find(places, first) != places.end() ||
                           (global.size == 32 && std::ranges::find(places, fourth) != places.end());
        EXPECT_TRUE(found) << name;
    }
}

TEST_P(EveryVariant, pointers_in_variables_are_listed_with_their_targets) {
    const ObjectFile object = open("globals");
    std::map<std::string, std::string> pointers;
    for (const DataReference& reference : object.data_references)
        pointers[variable_at(object, reference.section, reference.offset)] =
            variable_at(object, reference.target, reference.addend);
    const Global& array = find(object.globals, "data_array");
    const std::string element = fmt::format("{}+{}", object.data[array.section].name, array.offset + 16);
    const std::map<std::string, std::string> expected = {
        {"arena_first", "arena_second"}, {"arena_second", "arena_first"}, {"arena_head", "arena_second"},
        {"data_pointer", "data_int"},    {"element_pointer", element},    {"text", ".rodata.str1.1+0"}};
    EXPECT_EQ(pointers, expected);
}

TEST_P(EveryVariant, externs_are_listed_with_strength_and_kind) {
    const ObjectFile object = open("externs");
    ASSERT_EQ(object.externs.size(), 4U);
    EXPECT_TRUE(find(object.externs, "strong_function").is_function);
    EXPECT_FALSE(find(object.externs, "strong_function").weak);
    EXPECT_TRUE(find(object.externs, "weak_function").is_function);
    EXPECT_TRUE(find(object.externs, "weak_function").weak);
    EXPECT_FALSE(find(object.externs, "strong_variable").is_function);
    EXPECT_FALSE(find(object.externs, "strong_variable").weak);
    EXPECT_FALSE(find(object.externs, "weak_variable").is_function);
    EXPECT_TRUE(find(object.externs, "weak_variable").weak);
    EXPECT_EQ(calls_of(object, "use_all"), (Names{"strong_function", "weak_function"}));
    EXPECT_EQ(references_of(object, "use_all", Reference::Kind::extern_call),
              (Names{"strong_function", "weak_function"}));
    EXPECT_EQ(references_of(object, "use_all", Reference::Kind::extern_address).size(), 3U);
}

TEST_P(EveryVariant, addresses_of_functions_refer_to_them) {
    const ObjectFile object = open("callbacks");
    EXPECT_EQ(references_of(object, "loops", Reference::Kind::function),
              (Names{"static_callback", "global_callback", "callback_in_section"}));
    for (const Reference& reference : object.references) {
        if (reference.kind != Reference::Kind::function) continue;
        const auto distance = static_cast<std::uint32_t>(object.instructions[reference.insn].imm);
        EXPECT_EQ(reference.insn + 1 + distance, object.functions[reference.target].begin);
    }
}

TEST_P(EveryVariant, places_name_function_instruction_and_source_line) {
    const ObjectFile object = open("programs");
    const Function& first = find(object.functions, "first");
    EXPECT_NE(object.describe_place(first.begin + 1).find("program 'first' instruction 1 (programs.bpf.c:"),
              std::string::npos)
        << object.describe_place(first.begin + 1);
    // At -O0 the function begins with instructions of its opening brace.
    bool seen = false;
    for (std::uint32_t insn = first.begin; insn < first.end; ++insn)
        seen |= object.describe_place(insn).contains(": const int sum = global_in_text(1) +");
    EXPECT_TRUE(seen);
    const Function& helper = find(object.functions, "static_in_text");
    EXPECT_TRUE(object.describe_place(helper.begin).starts_with("function 'static_in_text' instruction 0"));
    EXPECT_EQ(object.describe_place(1'000'000), "instruction 1000000");
}

TEST(ObjectFile, programs_of_optional_sections_are_loaded_only_if_named) {
    EXPECT_FALSE(find(read_object("programs").functions, "optional").autoload);
    EXPECT_TRUE(find(read_object("programs").functions, "first").autoload);
    EXPECT_TRUE(find(read_object("programs", {.also_load = {"optional"}}).functions, "optional").autoload);
}

TEST(ObjectFile, what_is_not_built_yet_is_refused_by_name) {
    expect_error(ObjectFile::read(path_of("refused_core")), ENOTSUP, "CO-RE");
    expect_error(ObjectFile::read(path_of("refused_core")), ENOTSUP,
                 "program 'read_field' instruction 0 (refused_core.bpf.c:12: const int pid = task->pid;)");
    expect_error(ObjectFile::read(path_of("refused_kconfig")), ENOTSUP, "'CONFIG_HZ'");
    expect_error(ObjectFile::read(path_of("refused_function_pointer")), ENOTSUP, "variable 'operation'");
    expect_error(ObjectFile::read(path_of("refused_map_in_map")), ENOTSUP, "map 'outer': member 'values'");
}

TEST(ObjectFile, objects_that_cannot_work_are_refused_by_name) {
    expect_error(ObjectFile::read(path_of("refused_undefined")), EINVAL, "'nowhere' is undefined");
    expect_error(ObjectFile::read(path_of("refused_map_member")), EINVAL, "map 'misspelt': member 'max_entires'");
    expect_error(ObjectFile::read(path_of("refused_large_bss")), E2BIG, "'.bss'");
    expect_error(ObjectFile::read(path_of("refused_common")), EINVAL, "'tentative'");
    expect_error(ObjectFile::read(path_of("refused_no_code")), EINVAL, "no code");
    expect_error(ObjectFile::read(path_of("refused_no_btf")), EINVAL, "has no BTF: compile with -g");
}

TEST(ObjectFile, files_that_are_no_objects_are_refused) {
    expect_error(ObjectFile::read("/nonexistent/x.bpf.o"), ENOENT, "/nonexistent/x.bpf.o: ENOENT");
    expect_error(ObjectFile::read("/"), EISDIR, "EISDIR");
    expect_error(ObjectFile::read("/proc/self/exe"), EINVAL, "not for BPF (247)");
    expect_error(ObjectFile::parse({}, "empty.o"), EINVAL, "empty.o: not an ELF file: it is empty");
    expect_error(ObjectFile::parse(std::as_bytes(std::span{"int main(void)"}), "x.c"), EINVAL, "x.c: not an ELF file");
}

TEST(ObjectFile, other_kinds_of_elf_files_are_refused) {
    const std::vector<std::byte> good = bytes_of("programs");
    const auto with = [&](std::size_t at, int value) {
        std::vector<std::byte> bad = good;
        bad[at] = static_cast<std::byte>(value);
        return ObjectFile::parse(bad, "bad.o");
    };
    expect_error(with(4, 1), EINVAL, "not 64-bit");
    expect_error(with(5, 2), EINVAL, "not little-endian");
    expect_error(with(16, 2), EINVAL, "not a relocatable object");
    expect_error(with(18, 62), EINVAL, "not for BPF");
    expect_error(with(60, 0), EINVAL, "no sections");
    expect_error(with(58, 56), EINVAL, "section headers of 56 bytes");
}

TEST(ObjectFile, objects_at_odd_addresses_are_read) {
    const std::vector<std::byte> good = bytes_of("globals");
    for (std::size_t shift = 0; shift < 8; ++shift) {
        std::vector<std::byte> shifted(good.size() + shift);
        std::ranges::copy(good, shifted.begin() + static_cast<std::ptrdiff_t>(shift));
        const auto object = ObjectFile::parse(std::span{shifted}.subspan(shift), "shifted.o");
        ASSERT_TRUE(object.has_value()) << object.error().message();
        EXPECT_EQ(test::complaint_about(object), "");
    }
}

TEST(ObjectFile, messages_about_hostile_names_are_one_short_line) {
    const auto object = ObjectFile::parse({}, "a\nb\t" + std::string(100'000, 'x'));
    ASSERT_FALSE(object.has_value());
    EXPECT_TRUE(object.error().message().starts_with("a?b xxx"));
    EXPECT_LE(object.error().message().size(), 1000U);
}

}  // namespace harena::bpf
