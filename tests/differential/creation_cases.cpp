// SPDX-License-Identifier: Apache-2.0
// Definitions of arenas that are taken, and those that are refused: with the same errno.
#include <cerrno>

#include "tests/differential/build_case.hpp"

namespace harena::bpf::differential {

namespace {

using namespace test;

constexpr std::uint32_t k_most_pages = 1U << 20;

Case of_definition(std::string name, std::optional<int> refusal, const std::function<void(MapDefinition&)>& change) {
    ObjectBuilder made = builder();
    change(made.file().maps[0]);
    Case one = make_case(std::move(name), std::move(made), {});
    one.refusal = refusal;
    return one;
}

/// An address of something in this process, whose page is taken.
std::uint64_t taken_address() {
    static std::uint64_t something;
    return align_down(reinterpret_cast<std::uint64_t>(&something), k_page_size);
}

}  // namespace

std::vector<Case> creation_cases() {
    std::vector<Case> cases;
    const auto add_refused = [&](const char* name, int refusal, const std::function<void(MapDefinition&)>& change) {
        cases.push_back(of_definition(fmt::format("refused: {}", name), refusal, change));
    };
    const auto add_taken = [&](const char* name, const std::function<void(MapDefinition&)>& change) {
        cases.push_back(of_definition(fmt::format("taken: {}", name), std::nullopt, change));
    };
    add_refused("a key", EINVAL, [](MapDefinition& d) { d.key_size = 4; });
    add_refused("a value", EINVAL, [](MapDefinition& d) { d.value_size = 8; });
    add_refused("key and value", EINVAL, [](MapDefinition& d) { d.key_size = d.value_size = 4; });
    add_refused("no pages", EINVAL, [](MapDefinition& d) { d.max_entries = 0; });
    add_refused("no flags", EINVAL, [](MapDefinition& d) { d.flags = 0; });
    add_refused("flags without MMAPABLE", EINVAL, [](MapDefinition& d) { d.flags = k_flag_segv_on_fault; });
    for (const std::uint32_t bit : {0U, 1U, 3U, 7U, 8U, 9U, 11U, 12U, 16U, 19U, 31U})
        add_refused(fmt::format("flag {:#x}", 1U << bit).c_str(), EINVAL,
                    [bit](MapDefinition& d) { d.flags = k_flag_mmapable | 1U << bit; });
    for (const std::uint64_t bytes : {1U, 8U, 2048U, 4095U})
        add_refused(fmt::format("an address that is {} bytes behind a page", bytes).c_str(), EINVAL,
                    [bytes](MapDefinition& d) { d.map_extra += bytes; });
    add_refused("a page more than 4 GiB", E2BIG, [](MapDefinition& d) { d.max_entries = k_most_pages + 1; });
    add_refused("far more than 4 GiB", E2BIG, [](MapDefinition& d) { d.max_entries = UINT32_MAX; });
    add_refused("a page across 4 GiB", ERANGE,
                [](MapDefinition& d) { d.map_extra += 4 * k_gib - (k_arena_pages - 1) * k_page_size; });
    add_refused("4 GiB across 4 GiB", ERANGE, [](MapDefinition& d) {
        d.max_entries = k_most_pages;
        d.map_extra += k_page_size;
    });
    add_refused("an address that is taken", EEXIST, [](MapDefinition& d) {
        d.max_entries = 1;
        d.map_extra = taken_address();
    });
    cases.push_back(make_case("refused: two arenas", builder().arena(4, arena_address() + 4 * k_gib), {}));
    cases.back().refusal = EINVAL;

    add_taken("one page", [](MapDefinition& d) { d.max_entries = 1; });
    add_taken("to the end of 4 GiB", [](MapDefinition& d) { d.map_extra += 4 * k_gib - k_arena_pages * k_page_size; });
    add_taken("4 GiB", [](MapDefinition& d) { d.max_entries = k_most_pages; });
    add_taken("all flags", [](MapDefinition& d) { d.flags |= k_flag_segv_on_fault | k_flag_no_user_conv; });
    return cases;
}

}  // namespace harena::bpf::differential
