// SPDX-License-Identifier: Apache-2.0
#include "harena/base/hierarchical_bitmap.hpp"

#include <algorithm>
#include <bit>

#include "harena/base/assert.hpp"

namespace harena {

namespace {

std::size_t lowest(std::uint64_t word) noexcept { return static_cast<std::size_t>(std::countr_zero(word)); }
std::size_t highest(std::uint64_t word) noexcept { return 63 - static_cast<std::size_t>(std::countl_zero(word)); }

std::size_t level_words(std::size_t bits) noexcept { return std::max<std::size_t>(1, (bits + 63) / 64); }

}  // namespace

std::size_t HierarchicalBitmap::words_for(std::size_t bits) noexcept {
    std::size_t sum = 0;
    std::size_t words = bits;
    do {
        words = level_words(words);
        sum += words;
    } while (words > 1);
    return sum;
}

HierarchicalBitmap::HierarchicalBitmap(std::size_t bits) : bits_{bits}, words_{words_for(bits)} {
    std::size_t begin = 0;
    std::size_t words = bits;
    do {
        words = level_words(words);
        begins_[levels_++] = begin;
        begin += words;
    } while (words > 1);
}

void HierarchicalBitmap::set(std::size_t bit) noexcept {
    precondition(bit < bits_, "a bit must lie inside the bitmap");
    for (std::size_t level = 0; level < levels_; ++level, bit /= 64) {
        std::uint64_t& there = word(level, bit / 64);
        const std::uint64_t before = there;
        there |= mask(bit);
        if (before != 0) return;  // the levels above know of this word
    }
}

void HierarchicalBitmap::clear(std::size_t bit) noexcept {
    precondition(bit < bits_, "a bit must lie inside the bitmap");
    for (std::size_t level = 0; level < levels_; ++level, bit /= 64) {
        std::uint64_t& there = word(level, bit / 64);
        if ((there & mask(bit)) == 0) return;
        there &= ~mask(bit);
        if (there != 0) return;
    }
}

void HierarchicalBitmap::clear_all() noexcept { clear_below(levels_ - 1, 0); }

void HierarchicalBitmap::clear_below(std::size_t level, std::size_t index) noexcept {
    std::uint64_t& there = word(level, index);
    if (there == 0) return;
    if (level > 0)
        for (std::uint64_t bits = there; bits != 0; bits &= bits - 1) clear_below(level - 1, index * 64 + lowest(bits));
    there = 0;
}

std::size_t HierarchicalBitmap::find_next_set(std::size_t from) const noexcept {
    if (from >= bits_) return bits_;
    if (const std::uint64_t rest = words_[from / 64] >> (from % 64); rest != 0) return from + lowest(rest);
    std::size_t bit = from / 64;
    for (std::size_t level = 1; level < levels_; ++level, bit /= 64) {
        // After `bit` only: what it sums up has been looked at. Shifted twice, because 64 at once is undefined.
        const std::uint64_t after = word(level, bit / 64) & (~std::uint64_t{0} << (bit % 64) << 1);
        if (after != 0) return descend_first(level, bit / 64 * 64 + lowest(after));
    }
    return bits_;
}

std::size_t HierarchicalBitmap::find_previous_set(std::size_t from) const noexcept {
    if (bits_ == 0) return bits_;
    from = std::min(from, bits_ - 1);
    if (const std::uint64_t rest = words_[from / 64] << (63 - from % 64); rest != 0) return from - (63 - highest(rest));
    std::size_t bit = from / 64;
    for (std::size_t level = 1; level < levels_; ++level, bit /= 64) {
        const std::uint64_t before = word(level, bit / 64) & (mask(bit) - 1);
        if (before != 0) return descend_last(level, bit / 64 * 64 + highest(before));
    }
    return bits_;
}

std::size_t HierarchicalBitmap::descend_first(std::size_t level, std::size_t bit) const noexcept {
    for (; level > 0; --level) bit = bit * 64 + lowest(word(level - 1, bit));
    return bit;
}

std::size_t HierarchicalBitmap::descend_last(std::size_t level, std::size_t bit) const noexcept {
    for (; level > 0; --level) bit = bit * 64 + highest(word(level - 1, bit));
    return bit;
}

}  // namespace harena
