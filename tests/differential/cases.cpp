// SPDX-License-Identifier: Apache-2.0
#include "tests/differential/cases.hpp"

#include <charconv>

#include "harena/bpf/test_programs.hpp"

namespace harena::bpf::differential {

namespace {
constexpr std::string_view k_generated = "generated";
constexpr std::uint64_t k_generated_sets = 4;
constexpr std::uint64_t k_generated_in_a_set = 600;
}  // namespace

std::uint64_t arena_address() noexcept { return test::arena_address(); }

std::vector<std::string> sets() {
    std::vector<std::string> names{"objects", "creation", "calls", "accesses", "casts", "arithmetic"};
    for (std::uint64_t i = 0; i < k_generated_sets; ++i) names.push_back(fmt::format("{}{}", k_generated, i));
    return names;
}

std::vector<Case> cases_of(std::string_view set) {
    if (set == "objects") return object_cases();
    if (set == "creation") return creation_cases();
    if (set == "calls") return call_cases();
    if (set == "accesses") return access_cases();
    if (set == "casts") return cast_cases();
    if (set == "arithmetic") return arithmetic_cases();
    if (!set.starts_with(k_generated)) return {};
    set.remove_prefix(k_generated.size());
    std::uint64_t number = 0;
    std::from_chars(set.data(), set.data() + set.size(), number);
    return generated_cases(number * k_generated_in_a_set, k_generated_in_a_set);
}

}  // namespace harena::bpf::differential
