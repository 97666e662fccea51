// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "harena/bpf/engine.hpp"
#include "harena/bpf/object_file.hpp"

namespace harena::bpf::differential {

inline constexpr std::size_t k_context_bytes = 512;

/// One object to be run in each engine; everything that it is given is the same in both.
struct Case {
    std::string name;
    ObjectFile file;
    /// Programs to run, one after the other; empty: all that are loaded.
    std::vector<std::string> programs = {};
    /// The context of the first run; later ones get what the one before left.
    std::vector<std::byte> context = std::vector<std::byte>(k_context_bytes);
    /// The errno that loading must fail with, in both engines.
    std::optional<int> refusal = std::nullopt;
    /// What the host does after loading, such as filling the arena. Must succeed.
    std::function<Result<void>(const ObjectFile& file, LoadedObject& loaded)> prepare = {};
};

/// Where the arenas of all cases begin: free in every build.
[[nodiscard]] std::uint64_t arena_address() noexcept;

/// The sets that there are, and the cases of one. The same in every process.
[[nodiscard]] std::vector<std::string> sets();
[[nodiscard]] std::vector<Case> cases_of(std::string_view set);

// Each in a file of its name.
[[nodiscard]] std::vector<Case> arithmetic_cases();
[[nodiscard]] std::vector<Case> creation_cases();
[[nodiscard]] std::vector<Case> call_cases();
[[nodiscard]] std::vector<Case> access_cases();
[[nodiscard]] std::vector<Case> cast_cases();
[[nodiscard]] std::vector<Case> object_cases();
[[nodiscard]] std::vector<Case> generated_cases(std::uint64_t first_seed, std::uint64_t count);

}  // namespace harena::bpf::differential
