// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "harena/base/zeroed_array.hpp"

namespace harena {

/// A fixed number of bits with searches in both directions that take as many steps as there are levels, however sparse
/// the bits are: a word of 64 bits is summed up by one bit of the level above. At most 4 levels up to 16,777,216 bits.
///
/// Allocates when it is made, `bits / 63` words, and never again; memory is touched where bits are set, and may be
/// touched where they are looked for. Not thread-safe.
class HierarchicalBitmap {
public:
    /// All bits clear. Throws std::bad_alloc.
    explicit HierarchicalBitmap(std::size_t bits);

    [[nodiscard]] std::size_t size() const noexcept { return bits_; }
    [[nodiscard]] bool test(std::size_t bit) const noexcept { return (words_[bit / 64] & mask(bit)) != 0; }
    void set(std::size_t bit) noexcept;
    void clear(std::size_t bit) noexcept;

    /// Clears every bit, in time proportional to the words that have any.
    void clear_all() noexcept;

    /// The first set bit at or after `from`, or `size()` if there is none. `from` may be anything.
    [[nodiscard]] std::size_t find_next_set(std::size_t from) const noexcept;
    /// The last set bit at or before `from`, or `size()` if there is none. `from` may be anything.
    [[nodiscard]] std::size_t find_previous_set(std::size_t from) const noexcept;

private:
    static constexpr std::size_t k_max_levels = 11;  // 64^11 is beyond any size_t

    [[nodiscard]] static constexpr std::uint64_t mask(std::size_t bit) noexcept {
        return std::uint64_t{1} << (bit % 64);
    }
    [[nodiscard]] static std::size_t words_for(std::size_t bits) noexcept;
    [[nodiscard]] std::uint64_t& word(std::size_t level, std::size_t index) const noexcept {
        return words_[begins_[level] + index];
    }
    /// The first (last) set bit of level 0 below bit `bit` of `level`, which is set.
    [[nodiscard]] std::size_t descend_first(std::size_t level, std::size_t bit) const noexcept;
    [[nodiscard]] std::size_t descend_last(std::size_t level, std::size_t bit) const noexcept;
    void clear_below(std::size_t level, std::size_t index) noexcept;

    std::size_t bits_;
    std::size_t levels_ = 0;
    // Where in `words_` each level begins; level 0 has the bits themselves, the last level is one word.
    std::array<std::size_t, k_max_levels> begins_{};
    // Invariant: bit i of a level above 0 is set iff word i of the level below it is not 0.
    ZeroedArray<std::uint64_t> words_;
};

}  // namespace harena
