// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>

/// The sizes that an `ArenaHeap` rounds small objects up to: all multiples of 16 up to 128, then four for each doubling
/// up to 2048, so that at most a fifth of a slot is unused by an object of more than 128 bytes.
namespace harena::heap_size_classes {

inline constexpr std::size_t k_granule = 16;
inline constexpr std::size_t k_largest = 2048;
inline constexpr std::size_t k_count = 24;

namespace detail {

consteval std::array<std::uint16_t, k_count> make_sizes() {
    std::array<std::uint16_t, k_count> sizes{};
    std::size_t made = 0;
    for (std::size_t size = k_granule; size <= k_largest; ++made) {
        sizes[made] = static_cast<std::uint16_t>(size);
        std::size_t step = k_granule;
        while (step * 8 <= size) step *= 2;
        size += step;
    }
    return sizes;
}

inline constexpr std::array<std::uint16_t, k_count> k_sizes = make_sizes();
static_assert(k_sizes.back() == k_largest);

consteval auto make_class_of_granules() {
    std::array<std::uint8_t, k_largest / k_granule + 1> classes{};
    std::uint8_t current = 0;
    for (std::size_t granules = 0; granules < classes.size(); ++granules) {
        if (k_sizes[current] < granules * k_granule) ++current;
        classes[granules] = current;
    }
    return classes;
}

inline constexpr auto k_class_of_granules = make_class_of_granules();

}  // namespace detail

/// In bytes, of a class below `k_count`.
[[nodiscard]] constexpr std::size_t bytes_of(std::size_t size_class) noexcept { return detail::k_sizes[size_class]; }

/// The smallest class whose slots hold `bytes` bytes at multiples of `alignment`, a power of two; nullopt if there is
/// none. A slot of a class is aligned to whatever divides its size.
[[nodiscard]] constexpr std::optional<std::size_t> fitting(std::size_t bytes, std::size_t alignment) noexcept {
    if (bytes > k_largest) return std::nullopt;
    for (std::size_t fit = detail::k_class_of_granules[(bytes + k_granule - 1) / k_granule]; fit < k_count; ++fit)
        if (bytes_of(fit) % alignment == 0) return fit;
    return std::nullopt;
}

}  // namespace harena::heap_size_classes
