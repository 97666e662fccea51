// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "harena/base/result.hpp"
#include "harena/vm/vm_area.hpp"
#include "tools/harena/page_grid.hpp"

namespace harena::tool {

/// A `VmSpace` of the process.
struct SpaceView {
    std::uint64_t base = 0;
    std::uint64_t bytes = 0;
};

struct ArenaView {
    std::string name = {};
    std::uint64_t address = 0;  // of its first page
    std::uint64_t window = 0;
    /// On entries of 2 MiB.
    std::uint64_t huge_bytes = 0;
    /// None if its pages could not be read: `error` says why.
    std::optional<PageGrid> grid = {};
    std::string error = {};
};

struct PoolView {
    std::uint64_t address = 0;  // where its direct map begins
    std::uint64_t end = 0;
    std::uint64_t direct_map_bytes = 0;
    std::uint64_t huge_bytes = 0;
    /// Of its file; 0 if that could not be looked at.
    std::uint64_t capacity_bytes = 0;
    std::uint64_t bytes_in_use = 0;
};

/// Adjoining mappings that are not harena's.
struct OtherMappings {
    std::uint64_t begin = 0;
    std::uint64_t end = 0;
    std::uint64_t bytes = 0;
    std::uint64_t count = 0;
    bool program = false;
    bool heap = false;
    bool stack = false;
    bool files = false;  // libraries and other files
};

/// What a process has of harena, as seen from outside, at about one moment.
struct ProcessView {
    std::string pid = {};
    std::string command = {};
    /// Whether it has any file of harena mapped.
    bool uses_harena = false;
    std::vector<SpaceView> spaces = {};
    std::vector<VmAreaInfo> areas = {};  // by address
    std::vector<ArenaView> arenas = {};  // by address
    std::vector<PoolView> pools = {};    // by address
    std::vector<OtherMappings> others = {};
    /// Entries of area tables that cannot be true, and what was left out because there is too much.
    std::uint64_t damaged = 0;
    std::uint64_t left_out = 0;
    /// Why a table of areas could not be read.
    std::vector<std::string> unreadable = {};
};

/// Looks at process `pid`, or at this one for "self". The process goes on meanwhile, and may be hostile: all that it
/// says is checked, and how much is read is bounded. Errors: EINVAL (no process ID), ESRCH (no such process), EACCES or
/// EPERM (names what is needed), those of reading.
[[nodiscard]] Result<ProcessView> look_at_process(const std::string& pid);

}  // namespace harena::tool
