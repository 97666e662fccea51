// SPDX-License-Identifier: Apache-2.0
// Compiled objects: the demo, and the test objects of the loader, the engine and the tool, program by program.
#include <algorithm>
#include <array>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>

#include "harena/base/page_math.hpp"
#include "tests/differential/cases.hpp"

namespace harena::bpf::differential {

namespace {

constexpr std::array k_objects{HARENA_BPF_OBJECTS "/programs.bpf.o",
                               HARENA_BPF_OBJECTS "/programs_v1.bpf.o",
                               HARENA_BPF_OBJECTS "/programs_v3.bpf.o",
                               HARENA_BPF_OBJECTS "/programs_o0.bpf.o",
                               HARENA_BPF_OBJECTS "/maps.bpf.o",
                               HARENA_BPF_OBJECTS "/callbacks.bpf.o",
                               HARENA_BPF_OBJECTS "/callbacks_v1.bpf.o",
                               HARENA_BPF_OBJECTS "/callbacks_v3.bpf.o",
                               HARENA_BPF_OBJECTS "/externs.bpf.o",
                               HARENA_BPF_OBJECTS "/globals.bpf.o",
                               HARENA_BPF_OBJECTS "/engine.bpf.o",
                               HARENA_E2E_OBJECTS "/answer.bpf.o",
                               HARENA_E2E_OBJECTS "/choices.bpf.o",
                               HARENA_E2E_OBJECTS "/context.bpf.o",
                               HARENA_E2E_OBJECTS "/faults.bpf.o",
                               HARENA_E2E_OBJECTS "/loops.bpf.o",
                               HARENA_KERNEL_OBJECTS "/removed_code.bpf.o",
                               HARENA_DIFFERENTIAL_OBJECTS "/arguments.bpf.o"};
constexpr const char* k_demo = HARENA_WORD_INDEX_OBJECT;
constexpr const char* k_text = HARENA_SOURCE_FOLDER "/LICENSE";

void place_arena(ObjectFile& file) {
    for (MapDefinition& map : file.maps)
        if (map.type == map_type::arena) map.map_extra = arena_address();
}

/// A global variable's memory in a loaded object.
std::byte* global(const ObjectFile& file, const LoadedObject& loaded, std::string_view name) {
    const Global* const found = file.find_global(name);
    return found == nullptr ? nullptr : loaded.data[found->section].address + found->offset;
}

template <typename T>
void set(const ObjectFile& file, const LoadedObject& loaded, std::string_view name, T value) {
    if (std::byte* const at = global(file, loaded, name)) std::memcpy(at, &value, sizeof value);
}

/// Puts a text into the arena, as the demo's host does.
Result<void> load_text(const ObjectFile& file, LoadedObject& loaded) {
    std::ifstream in{k_text, std::ios::binary};
    const std::string text{std::istreambuf_iterator<char>{in}, {}};
    if (text.empty()) return fail(ENOENT, "{} cannot be read", k_text);
    Arena& arena = *loaded.arena;
    HARENA_CHECK_OK(arena.reserve_pages(arena.data(), PageCount{1}));
    std::byte* const at = arena.data() + k_page_size;
    std::memcpy(at, text.data(), text.size());  // each first touch of a page makes it
    set(file, loaded, "text", at);
    set(file, loaded, "text_length", std::uint64_t{text.size()});
    set(file, loaded, "absent", arena.data());
    return {};
}

/// An object that is missing must not look like one that is equal.
[[noreturn]] void give_up(const Error& error) {
    fmt::print(stderr, "differential: {}\n", error.message());
    std::exit(1);
}

std::string stem(std::string_view path) {
    path.remove_prefix(path.rfind('/') + 1);
    return std::string{path.substr(0, path.find('.'))};
}

}  // namespace

std::vector<Case> object_cases() {
    std::vector<Case> cases;
    for (const char* const path : k_objects) {
        auto file = ObjectFile::read(path);
        if (!file) give_up(file.error());
        place_arena(*file);
        for (const Function& function : file->functions) {
            if (!function.is_program) continue;
            Case one{.name = fmt::format("{} {}", stem(path), function.name), .file = *file};
            for (Function& other : one.file.functions) other.autoload = other.name == function.name;
            for (MapDefinition& map : one.file.maps)
                std::erase_if(map.initial_programs,
                              [&](const InitialProgram& p) { return p.function != function.name; });
            for (std::size_t i = 0; i < one.context.size(); i += 8) one.context[i] = static_cast<std::byte>(i);
            cases.push_back(std::move(one));
        }
    }
    auto demo = ObjectFile::read(k_demo);
    if (!demo) give_up(demo.error());
    place_arena(*demo);
    cases.push_back({.name = "the demo", .file = *std::move(demo), .prepare = load_text});
    return cases;
}

}  // namespace harena::bpf::differential
