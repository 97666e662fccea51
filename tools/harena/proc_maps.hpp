// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>

#include "harena/base/os/sys_result.hpp"

namespace harena::tool {

/// One mapping of a process, as the kernel tells it.
struct Mapping {
    std::uint64_t begin = 0;
    std::uint64_t end = 0;
    bool accessible = false;  // may be read, written or run
    bool shared = false;
    std::uint64_t offset = 0;  // in the file
    std::uint64_t device = 0;
    std::uint64_t inode = 0;
    /// Escaped by the kernel: control characters are \ooo. Empty for memory without a name.
    std::string path;
    /// On entries of 2 MiB, as far as smaps says it.
    std::uint64_t huge_bytes = 0;

    [[nodiscard]] std::uint64_t bytes() const noexcept { return end - begin; }
};

/// A line of /proc/PID/maps, or the first line of a mapping in smaps; none if it is neither.
[[nodiscard]] std::optional<Mapping> parse_mapping(std::string_view line);

/// Adds what a further line of a mapping in smaps says to it.
void parse_detail(std::string_view line, Mapping& mapping) noexcept;

/// Calls `visit` for each mapping of a process, in ascending order, with what is on huge pages if /proc has that.
/// `folder`: /proc/PID. Needs memory for one mapping only. Errors: those of opening and reading.
os::SysResult<void> for_each_mapping(const std::string& folder, const std::function<void(const Mapping&)>& visit);

}  // namespace harena::tool
