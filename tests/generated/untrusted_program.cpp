// SPDX-License-Identifier: Apache-2.0
#include "tests/generated/untrusted_program.hpp"

#include <algorithm>
#include <array>
#include <charconv>
#include <cstring>
#include <memory>
#include <string_view>

#include <fmt/format.h>

#include "harena/base/os/file.hpp"
#include "harena/bpf/engine.hpp"
#include "harena/bpf/map.hpp"
#include "harena/bpf/object_file.hpp"

namespace harena::bpf::test {

namespace {

constexpr std::size_t k_canary_bytes = 256;
constexpr std::size_t k_context_bytes = 64;
constexpr std::size_t k_data_bytes = 96;
constexpr std::uint32_t k_arena_pages = 16;
constexpr auto k_canary = std::byte{0xc5};
constexpr std::array<std::string_view, 3> k_kfuncs{"bpf_arena_alloc_pages", "bpf_arena_free_pages",
                                                   "bpf_arena_reserve_pages"};

/// Memory that a program is given, between memory that it must not reach.
struct Guarded {
    explicit Guarded(std::size_t bytes) : memory(bytes + 2 * k_canary_bytes, k_canary), size{bytes} {
        std::ranges::fill(inner(), std::byte{0});
    }
    [[nodiscard]] std::span<std::byte> inner() { return std::span{memory}.subspan(k_canary_bytes, size); }
    [[nodiscard]] bool intact() const {
        const auto is_canary = [](std::byte b) { return b == k_canary; };
        return std::all_of(memory.begin(), memory.begin() + k_canary_bytes, is_canary) &&
               std::all_of(memory.end() - k_canary_bytes, memory.end(), is_canary);
    }

    std::vector<std::byte> memory;
    std::size_t size;
};

/// The address ranges of this process, as they are now.
class AddressSpace {
public:
    AddressSpace() {
        const auto maps = os::read_file("/proc/self/maps");
        if (!maps) return;
        std::string_view rest{reinterpret_cast<const char*>(maps->data()), maps->size()};
        while (!rest.empty()) {
            const std::string_view line = rest.substr(0, rest.find('\n'));
            rest.remove_prefix(std::min(rest.size(), line.size() + 1));
            Range range{};
            const auto [dash, e1] = std::from_chars(line.data(), line.data() + line.size(), range.begin, 16);
            std::from_chars(dash + 1, line.data() + line.size(), range.end, 16);
            // Reservations hold nothing: the arena's window and the shadow of a sanitizer.
            if (line.find(" ---p") == std::string_view::npos && range.begin >= k_lowest) ranges_.push_back(range);
        }
    }

    /// Whether `value` is an address of this process outside [except, except + bytes).
    [[nodiscard]] bool is_address(std::uint64_t value, std::uint64_t except, std::uint64_t bytes) const {
        if (value < k_lowest || value >= k_highest || value - except < bytes) return false;
        return std::ranges::any_of(ranges_, [value](const Range& r) {
            return r.begin <= value && value < r.end && r.end - r.begin < k_shadow;
        });
    }

private:
    // Larger mappings are a sanitizer's shadow: half of all numbers would be in one.
    static constexpr std::uint64_t k_lowest = std::uint64_t{1}
                                              << 36;  // below are parts of it, where small numbers would be
    static constexpr std::uint64_t k_highest = std::uint64_t{1} << 47;
    static constexpr std::uint64_t k_shadow = std::uint64_t{1} << 36;
    struct Range {
        std::uint64_t begin;
        std::uint64_t end;
    };
    std::vector<Range> ranges_;
};

std::string find_address(std::span<const std::byte> memory, std::string_view what, const AddressSpace& space,
                         std::uint64_t window) {
    for (std::size_t at = 0; at + 8 <= memory.size(); ++at) {
        std::uint64_t value = 0;
        std::memcpy(&value, memory.data() + at, 8);
        if (space.is_address(value, window, std::uint64_t{1} << 32))
            return fmt::format("the host's address {:#x} is in {} at offset {}", value, what, at);
    }
    return {};
}

Reference reference_for(const Use& use) {
    switch (use.resource) {
        case Resource::data:
            return {.insn = use.insn, .kind = Reference::Kind::data, .target = 0, .addend = use.detail};
        case Resource::function:
            return {.insn = use.insn, .kind = Reference::Kind::function, .target = use.detail};
        case Resource::kfunc:
            return {.insn = use.insn, .kind = Reference::Kind::extern_call, .target = use.detail};
        default:
            return {.insn = use.insn, .kind = Reference::Kind::map, .target = static_cast<std::uint32_t>(use.resource)};
    }
}

ObjectFile object_of(const UntrustedProgram& program) {
    ObjectFile file;
    file.name = "generated";
    file.instructions = program.code;
    const auto end = static_cast<std::uint32_t>(program.code.size());
    const bool two = program.split > 0 && program.split < end;
    const auto add_function = [&](std::string name, std::uint32_t from, std::uint32_t to, bool is_program) {
        Function function;
        function.name = std::move(name);
        function.begin = from;
        function.end = to;
        function.is_program = is_program;
        function.type = ProgramType::syscall;
        file.functions.push_back(std::move(function));
    };
    add_function("main", 0, two ? program.split : end, true);
    if (two) add_function("other", program.split, end, false);
    const auto add_map = [&](std::string name, std::uint32_t type, std::uint32_t key, std::uint32_t value,
                             std::uint32_t entries, std::uint32_t flags) {
        MapDefinition map;
        map.name = std::move(name);
        map.type = type;
        map.key_size = key;
        map.value_size = value;
        map.max_entries = entries;
        map.flags = flags;
        file.maps.push_back(std::move(map));
    };
    add_map("arena", map_type::arena, 0, 0, k_arena_pages, 1U << 10);
    add_map("array", map_type::array, 4, 24, 3, 0);
    add_map("hash", map_type::hash, 8, 16, 4, 0);
    add_map("programs", map_type::prog_array, 4, 4, 2, 0);
    file.data.push_back(
        {.name = ".data", .kind = DataSection::Kind::data, .initial = std::vector<std::byte>(k_data_bytes)});
    for (const std::string_view name : k_kfuncs) {
        Extern kfunc;
        kfunc.name = name;
        kfunc.is_function = true;
        file.externs.push_back(std::move(kfunc));
    }
    for (const Use& use : program.uses) {
        Reference reference = reference_for(use);
        if (reference.kind == Reference::Kind::function) reference.target = two ? 1 : 0;
        file.references.push_back(reference);
    }
    std::ranges::sort(file.references, {}, &Reference::insn);
    return file;
}

std::string look_for_harm(const LoadedObject& loaded, Guarded& context, Guarded& data) {
    if (!context.intact()) return "memory beside the context was written";
    if (!data.intact()) return "memory beside the data section was written";
    const AddressSpace space;
    const std::uint64_t window = loaded.arena->user_vm_start().value() >> 32 << 32;
    if (auto found = find_address(context.inner(), "the context", space, window); !found.empty()) return found;
    if (auto found = find_address(data.inner(), ".data", space, window); !found.empty()) return found;
    for (const auto& map : loaded.maps) {
        for (auto key = map->next_key({}); key; key = map->next_key(*key))
            if (const auto value = map->lookup(*key))
                if (auto found = find_address(*value, map->name(), space, window); !found.empty()) return found;
    }
    const std::span<const std::byte> arena{loaded.arena->data(), loaded.arena->size()};
    return find_address(arena, "the arena", space, window);  // touches every page, as the host may
}

}  // namespace

UntrustedOutcome run_untrusted(const UntrustedProgram& program) {
    UntrustedOutcome outcome;
    Guarded context{k_context_bytes};
    Guarded data{k_data_bytes};
    const std::vector<DataMemory> memory{
        {.address = data.inner().data(), .size = data.inner().size(), .read_only = false, .owner = nullptr}};
    auto loaded = Engine::process().load(std::make_shared<const ObjectFile>(object_of(program)), memory,
                                         {.trace = [](std::string_view) {}});
    if (!loaded) {
        outcome.error = loaded.error().message();
        return outcome;
    }
    outcome.loaded = true;
    // One page that is there, and a program that calls itself.
    (void)loaded->arena->alloc_pages(PageCount{1}, {.address = loaded->arena->data()});
    (void)loaded->maps[static_cast<std::size_t>(Resource::program_array)]->set_program(0, *loaded->programs[0]);
    const auto result =
        loaded->programs[0]->run(context.inner(), {.budget_ns = 10'000'000'000, .max_instructions = 2'000});
    outcome.ran_to_end = result.has_value();
    outcome.faults = loaded->programs[0]->fault_log().count();
    if (!result) outcome.error = result.error().message();
    outcome.harm = look_for_harm(*loaded, context, data);
    const std::array<std::byte, 4> first{};
    (void)loaded->maps[static_cast<std::size_t>(Resource::program_array)]->erase(first);
    return outcome;
}

}  // namespace harena::bpf::test
