// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "harena/base/page_math.hpp"
#include "harena/secret/canary.hpp"

namespace harena {

/// How a page is cut into slots. After 16 bytes of key there are slots one after the other; a slot is room for a
/// secret, and a canary.
struct SizeClass {
    std::uint32_t slots;
    std::uint32_t slot_bytes;
    std::uint32_t inverse;  // x * inverse >> 32 is x / slot_bytes, for all x inside a page

    /// The largest secret.
    [[nodiscard]] constexpr std::uint32_t room() const noexcept {
        return slot_bytes - static_cast<std::uint32_t>(Canary::k_bytes);
    }
    /// How many free slots a thread keeps.
    [[nodiscard]] constexpr std::uint32_t kept_by_threads() const noexcept {
        return slots > 32 ? 32 : slots > 8 ? 8 : 4;
    }
};

/// Which row of `k_size_classes`.
using ClassIndex = std::uint8_t;

inline constexpr std::size_t k_slab_header = sizeof(CanaryKey);
inline constexpr std::uint32_t k_inverse_shift = 32;
/// Numbers of slots for which the next size is at most a half larger.
inline constexpr std::array<std::uint32_t, 16> k_slots_of_classes{127, 85, 63, 51, 42, 36, 28, 21,
                                                                  15,  12, 9,  7,  5,  4,  3,  2};
inline constexpr std::size_t k_classes = k_slots_of_classes.size();
inline constexpr std::uint32_t k_most_slots = 127;

/// Source of all: as many slots of a multiple of 16 bytes as a page has room for.
inline constexpr std::array<SizeClass, k_classes> k_size_classes = [] {
    std::array<SizeClass, k_classes> classes{};
    for (std::size_t i = 0; i < k_classes; ++i) {
        const std::uint32_t slots = k_slots_of_classes[i];
        const auto bytes = static_cast<std::uint32_t>(align_down((k_page_size - k_slab_header) / slots, 16));
        classes[i] = {.slots = slots,
                      .slot_bytes = bytes,
                      .inverse =
                          static_cast<std::uint32_t>(((std::uint64_t{1} << k_inverse_shift) + bytes - 1) / bytes)};
    }
    return classes;
}();

/// The largest secret that has a slot.
inline constexpr std::size_t k_largest_slot = k_size_classes.back().room();

/// The smallest class for 1 to `k_largest_slot` bytes.
[[nodiscard]] constexpr ClassIndex class_for(std::size_t bytes) noexcept {
    constexpr auto k_table = [] {
        std::array<ClassIndex, k_largest_slot / 16 + 1> table{};
        ClassIndex index = 0;
        for (std::size_t i = 0; i < table.size(); ++i) {
            if (i * 16 > k_size_classes[index].room()) ++index;
            table[i] = index;
        }
        return table;
    }();
    return k_table[(bytes + 15) / 16];
}

}  // namespace harena
