// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>

#include "harena/base/result.hpp"

namespace harena {

/// What the kernel has mapped in a range at the moment.
struct MappedBytes {
    /// Mappings that the range is in, inaccessible ones and those that reach out of it included.
    std::uint64_t vmas = 0;
    /// Bytes that have page-table entries, of 2 MiB and of 4 KiB.
    std::uint64_t bytes_2m = 0;
    std::uint64_t bytes_4k = 0;
};

/// Reads /proc/self/smaps, which takes time in proportion to the mappings and pages of the process. Errors: those of
/// reading it; ENOMEM. Thread-safe.
[[nodiscard]] Result<MappedBytes> mapped_bytes(const std::byte* begin, std::uint64_t bytes);

}  // namespace harena
