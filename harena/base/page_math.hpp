// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>

#include "harena/base/types.hpp"

namespace harena {

inline constexpr unsigned k_page_shift = 12;
/// The unit of presence, allocation and protection, in bytes.
inline constexpr std::uint64_t k_page_size = std::uint64_t{1} << k_page_shift;
inline constexpr std::uint64_t k_kib = 1024;
inline constexpr std::uint64_t k_mib = 1024 * k_kib;
inline constexpr std::uint64_t k_gib = 1024 * k_mib;
inline constexpr std::uint64_t k_huge_page_size = 2 * k_mib;
inline constexpr PageCount k_huge_page_pages{k_huge_page_size / k_page_size};

/// Whether `value` is a multiple of `alignment`, a power of two.
[[nodiscard]] constexpr bool is_aligned(std::uint64_t value, std::uint64_t alignment) noexcept {
    return (value & (alignment - 1)) == 0;
}
/// The largest multiple of `alignment` (a power of two) that is not above `value`.
[[nodiscard]] constexpr std::uint64_t align_down(std::uint64_t value, std::uint64_t alignment) noexcept {
    return value & ~(alignment - 1);
}
/// The smallest multiple of `alignment` (a power of two) that is not below `value`; wraps to 0 past the last one.
[[nodiscard]] constexpr std::uint64_t align_up(std::uint64_t value, std::uint64_t alignment) noexcept {
    return align_down(value + alignment - 1, alignment);
}
/// How many pages hold `bytes` bytes; `bytes` at most 2^64 - 4096.
[[nodiscard]] constexpr PageCount pages_for(std::uint64_t bytes) noexcept {
    return PageCount{(bytes + k_page_size - 1) >> k_page_shift};
}
[[nodiscard]] constexpr std::uint64_t bytes_of(PageCount count) noexcept { return count.value() << k_page_shift; }
[[nodiscard]] constexpr std::uint64_t byte_offset(PageIndex index) noexcept { return index.value() << k_page_shift; }

}  // namespace harena
