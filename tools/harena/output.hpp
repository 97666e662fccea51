// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include <nlohmann/json.hpp>

#include "harena/base/result.hpp"

namespace harena::tool {

/// Exit statuses of the tool.
inline constexpr int k_ran = 0;
inline constexpr int k_program_error = 1;
inline constexpr int k_bad_input = 2;

using Json = nlohmann::ordered_json;

/// Text from an untrusted file as it can be shown on a terminal, in one line: control characters and bytes that are not
/// UTF-8 become \n, \x1b and so on.
[[nodiscard]] std::string escaped(std::string_view text);

/// A number of bytes for people: "4096", "64 KiB", "4 GiB".
[[nodiscard]] std::string human_bytes(std::uint64_t bytes);

/// Prints "harena: <message>" on one line of stderr and returns `status`.
int report(int status, const Error& error);

/// Prints `json` on stdout, in ASCII; bytes that are not UTF-8 are replaced.
void print_json(const Json& json);

}  // namespace harena::tool
