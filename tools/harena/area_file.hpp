// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <vector>

#include "harena/base/result.hpp"
#include "harena/vm/vm_area.hpp"

namespace harena::tool {

/// What the file of a space's areas says, as far as it can be true.
struct AreaFile {
    std::uint64_t base = 0;
    std::uint64_t bytes = 0;
    std::vector<VmAreaInfo> areas;
    /// Entries that no area can have, and those that there was no time or room for.
    std::uint64_t damaged = 0;
    std::uint64_t left_out = 0;
};

/// How much is read of a process at most, whatever its files say.
struct AreaBudget {
    std::uint64_t entries = std::uint64_t{4} << 20;
    std::uint64_t areas = std::uint64_t{1} << 17;
};

/// Reads the file of an `AreaTable` of another process, which may be changing it, be hostile, or have ended while it
/// wrote. What is read is taken off `budget`. Errors: EINVAL (not such a file), those of reading.
[[nodiscard]] Result<AreaFile> read_area_file(int fd, AreaBudget& budget);

}  // namespace harena::tool
