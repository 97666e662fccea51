// SPDX-License-Identifier: Apache-2.0
#include "harena/exec/text_chunk.hpp"

#include <algorithm>
#include <bit>

namespace harena {

namespace {

constexpr std::uint16_t k_written = 1U << 12;
constexpr std::uint16_t k_retired = 1U << 13;
constexpr std::uint16_t k_patching = 1U << 14;
constexpr std::uint16_t k_patched = 1U << 15;

TextPieceFlags flags_of(std::uint16_t word) noexcept {
    return {.written = (word & k_written) != 0,
            .retired = (word & k_retired) != 0,
            .patching = (word & k_patching) != 0,
            .patched = (word & k_patched) != 0};
}

std::uint16_t bits_of(TextPieceFlags flags) noexcept {
    return static_cast<std::uint16_t>((flags.written ? k_written : 0) | (flags.retired ? k_retired : 0) |
                                      (flags.patching ? k_patching : 0) | (flags.patched ? k_patched : 0));
}

std::uint32_t granules_of(std::uint32_t bytes) noexcept { return static_cast<std::uint32_t>(text_granules(bytes)); }

}  // namespace

std::uint32_t TextChunk::next(std::uint32_t from, bool used) const noexcept {
    if (from >= k_granules) return k_granules;
    const std::uint64_t flip = used ? 0 : ~std::uint64_t{0};
    std::uint32_t word = from / 64;
    std::uint64_t bits = (used_[word] ^ flip) & (~std::uint64_t{0} << (from % 64));
    while (bits == 0) {
        if (++word == k_words) return k_granules;
        bits = used_[word] ^ flip;
    }
    return word * 64 + static_cast<std::uint32_t>(std::countr_zero(bits));
}

std::uint32_t TextChunk::hole_begin(std::uint32_t from) const noexcept {
    const std::uint32_t lowest = from < k_near ? 0 : (from - k_near) / 64;
    std::uint32_t word = from / 64;
    std::uint64_t bits = used_[word] & ~(~std::uint64_t{0} << (from % 64));
    while (bits == 0) {
        if (word == lowest) return word * 64;
        bits = used_[--word];
    }
    return word * 64 + 64 - static_cast<std::uint32_t>(std::countl_zero(bits));
}

void TextChunk::assign(std::uint32_t begin, std::uint32_t count, bool used) noexcept {
    while (count > 0) {
        const std::uint32_t bit = begin % 64;
        const std::uint32_t here = std::min(count, 64 - bit);
        const std::uint64_t mask = (~std::uint64_t{0} >> (64 - here)) << bit;
        if (used)
            used_[begin / 64] |= mask;
        else
            used_[begin / 64] &= ~mask;
        begin += here;
        count -= here;
    }
}

std::optional<TextChunk::Hole> TextChunk::find_hole(std::uint32_t granules) noexcept {
    std::uint32_t largest = 0;
    for (std::uint32_t begin = next(0, false); begin < k_granules;) {
        const std::uint32_t end = next(begin, true);
        if (end - begin >= granules) return Hole{.begin = begin, .end = end};
        largest = std::max(largest, end - begin);
        begin = next(end, false);
    }
    largest_ = largest;
    return std::nullopt;
}

void TextChunk::add(std::uint32_t begin, std::uint32_t bytes) noexcept {
    const std::uint32_t count = granules_of(bytes);
    assign(begin, count, true);
    free_ -= count;
    pieces_[begin] = static_cast<std::uint16_t>(bytes);
}

void TextChunk::remove(std::uint32_t begin) noexcept {
    const std::uint32_t count = granules_of(pieces_[begin] & k_size_mask);
    pieces_[begin] = 0;
    assign(begin, count, false);
    free_ += count;
    // The hole that it is now, if that is soon found out; no hole has more than all of them.
    const std::uint32_t first = hole_begin(begin);
    largest_ = std::max(largest_, begin - first < k_near ? next(begin + count, true) - first : free_);
}

std::optional<TextChunk::Piece> TextChunk::at(std::uint32_t begin) const noexcept {
    const std::uint16_t word = pieces_[begin];
    if (word == 0) return std::nullopt;
    return Piece{.begin = begin, .bytes = word & std::uint32_t{k_size_mask}, .flags = flags_of(word)};
}

std::optional<TextChunk::Piece> TextChunk::containing(std::uint32_t granule) const noexcept {
    constexpr std::uint32_t k_most = k_max_piece_bytes / k_text_granule;
    const std::uint32_t lowest = granule < k_most ? 0 : granule - k_most + 1;
    for (std::uint32_t begin = granule;; --begin) {
        if (const auto piece = at(begin)) {
            if (begin + granules_of(piece->bytes) > granule) return piece;
            return std::nullopt;
        }
        if (begin == lowest) return std::nullopt;
    }
}

void TextChunk::set_flags(std::uint32_t begin, TextPieceFlags flags) noexcept {
    pieces_[begin] = static_cast<std::uint16_t>((pieces_[begin] & k_size_mask) | bits_of(flags));
}

}  // namespace harena
