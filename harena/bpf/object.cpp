// SPDX-License-Identifier: Apache-2.0
#include "harena/bpf/object.hpp"

#include <algorithm>
#include <cerrno>
#include <new>
#include <ranges>
#include <string_view>
#include <unordered_set>
#include <utility>

#include "harena/bpf/data_memory.hpp"
#include "harena/bpf/process_map.hpp"

namespace harena::bpf {

namespace {

template <typename Range, typename Name>
std::string list(Range&& range, Name&& name) {
    std::string names;
    for (const auto& element : range) names += fmt::format("{}{}", names.empty() ? "" : ", ", name(element));
    return names.empty() ? "none" : names;
}

Result<void> check_program(const ObjectFile& file, const std::string& name) {
    const Function* const function = file.find_function(name);
    if (function != nullptr && function->is_program) return {};
    return fail(ENOENT, "{}: no program '{}' to load; there is: {}", file.name, name,
                list(std::views::filter(file.functions, &Function::is_program),
                     [](const Function& f) { return f.name; }));
}

/// That only `name` is loaded, and what program arrays begin with.
Result<void> keep_only(ObjectFile& file, const std::string& name) {
    HARENA_CHECK_OK(check_program(file, name));
    std::unordered_set<std::string_view> wanted{name};
    for (const MapDefinition& map : file.maps)
        for (const InitialProgram& initial : map.initial_programs) wanted.insert(initial.function);
    for (Function& function : file.functions)
        if (function.is_program) function.autoload = wanted.contains(function.name);
    return {};
}

}  // namespace

struct Object::State {
    State() = default;
    State(const State&) = delete;
    State& operator=(const State&) = delete;
    ~State() {
        // A program array holds programs, whose object holds its maps: the circle is cut here.
        if (!loaded) return;
        for (const auto& map : loaded->maps)
            if (auto* const programs = dynamic_cast<ProgramArray*>(map.get())) programs->clear();
    }

    std::vector<DataMemory> data;  // as `ObjectFile::data`
    std::optional<LoadedObject> loaded;
};

Object::Object(std::unique_ptr<State> state) noexcept : state_{std::move(state)} {}
Object::Object(Object&&) noexcept = default;
Object& Object::operator=(Object&&) noexcept = default;
Object::~Object() = default;

Result<Object> Object::open(const std::string& path, const OpenOptions& options) {
    HARENA_TRY(ObjectFile file, ObjectFile::read(path, {.also_load = options.also_load}));
    return make(std::move(file), options);
}

Result<Object> Object::open(std::span<const std::byte> bytes, std::string name, const OpenOptions& options) {
    HARENA_TRY(ObjectFile file, ObjectFile::parse(bytes, std::move(name), {.also_load = options.also_load}));
    return make(std::move(file), options);
}

Result<Object> Object::make(ObjectFile file, const OpenOptions& options) try {
    MapDefinition* arena = nullptr;
    for (MapDefinition& map : file.maps) {
        if (map.type != map_type::arena) continue;
        if (arena != nullptr)
            return fail(EINVAL, "{}: maps '{}' and '{}' are both arenas; an object has one at most", file.name,
                        arena->name, map.name);
        arena = &map;
    }
    for (const std::string& name : options.also_load) HARENA_CHECK_OK(check_program(file, name));
    if (!options.only_load.empty()) HARENA_CHECK_OK(keep_only(file, options.only_load));
    if (arena != nullptr && options.arena_address) arena->map_extra = *options.arena_address;
    if (arena != nullptr && options.arena_pages) {
        if (*options.arena_pages > Arena::k_max_pages)
            return fail(E2BIG, "{}: arena_pages {} are more than 4 GiB", file.name, options.arena_pages->value());
        arena->max_entries = static_cast<std::uint32_t>(options.arena_pages->value());
    }
    const DataSection* in_arena = nullptr;
    for (const DataSection& section : file.data) {
        if (section.kind != DataSection::Kind::arena || section.initial.empty()) continue;
        if (in_arena != nullptr)
            return fail(ENOTSUP, "{}: sections {} and {} both hold globals of the arena; one can", file.name,
                        in_arena->name, section.name);
        in_arena = &section;
    }
    Object object{std::make_unique<State>()};
    HARENA_TRY(object.state_->data, make_data_memory(file));
    object.file_ = std::make_shared<const ObjectFile>(std::move(file));
    return object;
} catch (const std::bad_alloc&) {
    return fail(ENOMEM, "no memory to open the object");
}

Result<void> Object::load(Engine& engine, const LoadOptions& options) try {
    if (state_->loaded) return fail(EBUSY, "{}: the object is loaded already", file_->name);
    auto loaded = engine.load(file_, state_->data, options);
    if (!loaded) return pass_on(loaded.error().in(file_->name));
    state_->data = loaded->data;
    state_->loaded = std::move(*loaded);
    return {};
} catch (const std::bad_alloc&) {
    return fail(ENOMEM, "no memory to load the object");
}

Result<Program*> Object::program(std::string_view name) const {
    if (!state_->loaded) return fail(EINVAL, "{}: load the object before asking for program '{}'", file_->name, name);
    for (const auto& program : state_->loaded->programs)
        if (program->name() == name) return program.get();
    return fail(ENOENT, "{}: no program '{}'; there is: {}", file_->name, name,
                list(state_->loaded->programs, [](const auto& program) { return program->name(); }));
}

std::vector<Program*> Object::programs() const {
    std::vector<Program*> programs;
    if (state_->loaded)
        for (const auto& program : state_->loaded->programs) programs.push_back(program.get());
    return programs;
}

Result<Map*> Object::map(std::string_view name) const {
    if (!state_->loaded) return fail(EINVAL, "{}: load the object before asking for map '{}'", file_->name, name);
    for (const auto& map : state_->loaded->maps)
        if (map->name() == name) return map.get();
    return fail(ENOENT, "{}: no map '{}'; there is: {}", file_->name, name,
                list(file_->maps, [](const auto& map) { return map.name; }));
}

Result<std::shared_ptr<Arena>> Object::arena() const {
    if (!state_->loaded) return fail(EINVAL, "{}: load the object before asking for its arena", file_->name);
    if (state_->loaded->arena == nullptr) return fail(ENOENT, "{}: the object has no arena", file_->name);
    return state_->loaded->arena;
}

Result<std::byte*> Object::find_global(std::string_view name, std::size_t size, std::size_t alignment,
                                       bool for_reading) const {
    const Global* const global = file_->find_global(name);
    if (global == nullptr)
        return fail(ENOENT, "{}: no global variable '{}'; there is: {}", file_->name, name,
                    list(file_->globals, [](const Global& g) { return g.name; }));
    if (global->size != size)
        return fail(EINVAL, "{}: global variable '{}' ({}) has {} bytes and is asked for with {}", file_->name, name,
                    global->type == k_no_type ? "of unknown type" : file_->btf->name_of(global->type), global->size,
                    size);
    const DataSection& section = file_->data[global->section];
    const DataMemory& memory = state_->data[global->section];
    if (memory.address == nullptr)
        return fail(EINVAL, "{}: global variable '{}' is in the arena: load the object first", file_->name, name);
    if (section.kind == DataSection::Kind::rodata && state_->loaded && !for_reading)
        return fail(EPERM, "{}: global variable '{}' is read-only once the object is loaded; ask for it as const",
                    file_->name, name);
    if (global->offset % alignment != 0)  // sections begin at pages
        return fail(EINVAL, "{}: global variable '{}' at offset {} of {} is not aligned to {} bytes", file_->name, name,
                    global->offset, section.name, alignment);
    return memory.address + global->offset;
}

}  // namespace harena::bpf
