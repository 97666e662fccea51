// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

#include "harena/base/os/sys_result.hpp"
#include "harena/base/page_math.hpp"
#include "harena/base/result.hpp"

/// Addresses that are kept inaccessible (PROT_NONE) until something is mapped there.
namespace harena::reservation {

/// One after the last address of a process.
inline constexpr std::uint64_t k_end_of_addresses = std::uint64_t{1} << 47;

/// All are multiples of 4096, and 32 TiB at most; `alignment` is a power of two.
struct Shape {
    std::uint64_t bytes;
    std::uint64_t alignment;
    std::uint64_t guard_below;
    std::uint64_t guard_above;
};

/// Reserves [base - guard_below, base + bytes + guard_above), replacing nothing. Returns `base`, a multiple of the
/// alignment. Errors: EEXIST (names the mapping in the way), ENOMEM (names the limit where there is one). Thread-safe.
[[nodiscard]] Result<std::byte*> reserve_at(std::uint64_t base, const Shape& shape);
/// The same at a place that nobody can guess, as long as there is one.
[[nodiscard]] Result<std::byte*> reserve_anywhere(const Shape& shape);

/// The error of a reservation of `bytes` that failed; `where` is "at 0x…" or "anywhere". Names the limit in the way.
[[nodiscard]] std::unexpected<Error> fail_to_reserve(os::SysError error, std::uint64_t bytes, std::string_view where);

}  // namespace harena::reservation
