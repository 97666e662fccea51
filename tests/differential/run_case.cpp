// SPDX-License-Identifier: Apache-2.0
#include "tests/differential/run_case.hpp"

#include <sys/mman.h>

#include <map>
#include <memory>
#include <utility>

#include "harena/bpf/data_memory.hpp"
#include "harena/kernel/kernel_arena.hpp"

namespace harena::bpf::differential {

namespace {

using Json = nlohmann::json;

Json bytes_of(std::span<const std::byte> bytes) {
    const auto* const begin = reinterpret_cast<const std::uint8_t*>(bytes.data());
    return Json::binary(std::vector<std::uint8_t>(begin, begin + bytes.size()));
}

Json to_json(const Error& error) { return {{"code", error.code()}, {"message", error.message()}}; }

Json run(Program& program, std::vector<std::byte>& context) {
    const Result<RunResult> result = program.run(context);
    Json json{{"program", program.name()}, {"context", bytes_of(context)}};
    if (!result) {
        json["error"] = to_json(result.error());
        return json;
    }
    json["value"] = result->return_value;
    json["fault_count"] = result->fault_count;
    json["faults_known"] = result->faults_known;
    json["faults"] = Json::array();
    for (const Fault& fault : result->faults)
        json["faults"].push_back({{"write", fault.access == Fault::Access::write},
                                  {"address", fault.address.value()},
                                  {"function", fault.function},
                                  {"place", fault.place}});
    return json;
}

/// Which pages have memory: an arena in this process is a file, one in the kernel says it itself.
std::vector<bool> present(Arena& arena) {
    if (auto* const in_kernel = dynamic_cast<kernel::KernelArena*>(&arena)) {
        auto pages = in_kernel->present(PageRange::of(PageIndex{}, arena.pages()));
        if (pages) return *std::move(pages);
        fmt::print(stderr, "differential: {}\n", pages.error().message());
        return {};
    }
    std::vector<unsigned char> resident(arena.pages().value());
    if (::mincore(arena.data(), arena.size(), resident.data()) != 0) return {};
    std::vector<bool> pages;
    for (const unsigned char page : resident) pages.push_back((page & 1) != 0);
    return pages;
}

Json contents(Arena& arena) {
    Json pages = Json::object();
    const std::vector<bool> has_memory = present(arena);
    if (has_memory.size() != arena.pages().value()) return nullptr;
    for (std::size_t i = 0; i < has_memory.size(); ++i)
        if (has_memory[i]) pages[std::to_string(i)] = bytes_of({arena.data() + i * k_page_size, k_page_size});
    return pages;
}

Json code_of(const Result<void>& result) {
    const int code = result ? 0 : result.error().code();
    return bytes_of(std::as_bytes(std::span{&code, 1}));
}

Json code_of(const Result<std::vector<std::byte>>& result) {
    return code_of(result ? Result<void>{} : pass_on(result.error()));
}

/// An arena has no elements: what each operation says to that, for a key of no bytes and for one of four.
Json answers_of(Map& arena) {
    Json answers = Json::object();
    const std::vector<std::byte> four(4);
    for (const std::span<const std::byte> key : {std::span<const std::byte>{}, std::span<const std::byte>{four}}) {
        const auto name = [&](const char* operation) { return fmt::format("{} {}", operation, key.size()); };
        answers[name("lookup")] = code_of(arena.lookup(key));
        answers[name("update")] = code_of(arena.update(key, key, UpdateMode::any));
        answers[name("erase")] = code_of(arena.erase(key));
        answers[name("next key")] = code_of(arena.next_key(key));
    }
    answers["first key"] = code_of(arena.next_key(std::nullopt));
    return answers;
}

Json contents(Map& map) {
    if (map.definition().type == map_type::arena) return answers_of(map);
    Json entries = Json::object();
    if (map.definition().type != map_type::array && map.definition().type != map_type::hash) return entries;
    std::optional<std::vector<std::byte>> key;
    while (true) {
        auto next = map.next_key(key ? std::optional<std::span<const std::byte>>{*key} : std::nullopt);
        if (!next) return entries;
        key = *std::move(next);
        std::string name;
        for (const std::byte b : *key) name += fmt::format("{:02x}", std::to_underlying(b));
        if (const auto value = map.lookup(*key)) entries[name] = bytes_of(*value);
    }
}

}  // namespace

Json run_case(Engine& engine, const Case& one) {
    Json json{{"name", one.name}};
    if (one.refusal) json["refusal"] = *one.refusal;
    auto data = make_data_memory(one.file);
    if (!data) return {{"name", one.name}, {"load_error", to_json(data.error())}};
    // As in Linux, where every access to a freed page is a fault, and addresses do not depend on threads.
    const LoadOptions options{.tuning = {.deterministic = true, .exact_presence = true}};
    auto loaded = engine.load(std::make_shared<const ObjectFile>(one.file), *std::move(data), options);
    if (!loaded) {
        json["load_error"] = to_json(loaded.error());
        return json;
    }
    if (one.prepare) {
        if (const auto prepared = one.prepare(one.file, *loaded); !prepared) {
            json["prepare_error"] = to_json(prepared.error());
            return json;
        }
    }
    json["runs"] = Json::array();
    std::vector<std::byte> context = one.context;
    const auto is_wanted = [&](const auto& program) {
        return one.programs.empty() || std::ranges::find(one.programs, program->name()) != one.programs.end();
    };
    for (const auto& program : loaded->programs)
        if (is_wanted(program)) json["runs"].push_back(run(*program, context));
    if (loaded->arena != nullptr) json["pages"] = contents(*loaded->arena);
    for (std::size_t i = 0; i < loaded->data.size(); ++i)
        if (one.file.data[i].kind != DataSection::Kind::arena && loaded->data[i].size != 0)
            json["data"][one.file.data[i].name] = bytes_of({loaded->data[i].address, loaded->data[i].size});
    for (const auto& map : loaded->maps) json["maps"][map->name()] = contents(*map);
    for (const auto& map : loaded->maps)  // programs that hold each other
        for (std::uint32_t i = 0; map->definition().type == map_type::prog_array && i < map->definition().max_entries;
             ++i)
            (void)map->erase(std::as_bytes(std::span{&i, 1}));
    return json;
}

}  // namespace harena::bpf::differential
